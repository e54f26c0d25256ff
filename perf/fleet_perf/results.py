"""All that one run of the bench has found, and its plain form for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fleet_perf.compare import ColdComparison, WarmComparison
from fleet_perf.promises import RoundsReport
from tritonfleet.errors import FleetError

FORMAT = 1
"""Of the JSON; raised when a field changes its meaning or its place."""


@dataclass(slots=True)
class Results:
    """All that one run of the bench has found."""

    name: str
    environment: dict[str, Any]
    warm: list[WarmComparison] = field(default_factory=list)
    cold: list[ColdComparison] = field(default_factory=list)
    rounds: RoundsReport | None = None
    failed: list[FleetError] = field(default_factory=list)
    quick: bool = False

    @property
    def good(self) -> bool:
        """Everything was measured, and no promise was broken."""
        return not self.failed and (self.rounds is None or self.rounds.kept)

    def as_json(self) -> dict[str, Any]:
        """Plain data, figures unrounded."""
        rounds = None
        if self.rounds is not None:
            rounds = {**asdict(self.rounds), "kept": self.rounds.kept}
        return {
            "format": FORMAT,
            "name": self.name,
            "quick": self.quick,
            "good": self.good,
            "environment": self.environment,
            "warm": [asdict(comparison) for comparison in self.warm],
            "cold": [asdict(comparison) for comparison in self.cold],
            "rounds": rounds,
            "failed": [str(error) for error in self.failed],
        }
