"""What became of each model in a build. Facts only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tritonfleet.errors import FleetError
from tritonfleet.server.layout import ManifestEntry, ParityRecord


@dataclass(frozen=True, slots=True)
class BuildResult:
    """One model's outcome."""

    model: str
    status: Literal["built", "unchanged", "failed"]
    version: int | None = None
    artifact_bytes: int = 0
    random_weights: bool = False
    parity: ParityRecord | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By phase; empty when nothing was done."""
    error: FleetError | None = None

    @property
    def total_s(self) -> float:
        """Seconds over all phases."""
        return sum(self.seconds.values())

    @classmethod
    def of_entry(
        cls, model: str, status: Literal["built", "unchanged"], entry: ManifestEntry
    ) -> BuildResult:
        """The outcome that a manifest entry tells."""
        return cls(
            model,
            status,
            entry.version,
            entry.artifact_bytes,
            entry.random_weights,
            entry.parity,
            entry.metrics,
            entry.timings_s if status == "built" else {},
        )

    def to_json(self) -> dict[str, Any]:
        """The outcome for machines."""
        return {
            "model": self.model,
            "status": self.status,
            "version": self.version,
            "artifact_bytes": self.artifact_bytes,
            "random_weights": self.random_weights,
            "parity": self.parity.model_dump() if self.parity else None,
            "metrics": dict(self.metrics),
            "seconds": dict(self.seconds),
            "error": str(self.error) if self.error else None,
            "error_type": type(self.error).__name__ if self.error else None,
        }


@dataclass(frozen=True, slots=True)
class BuildReport:
    """All outcomes, and the published models that the fleet file no longer has."""

    results: tuple[BuildResult, ...]
    stale: tuple[str, ...] = ()
    pruned: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[BuildResult, ...]:
        """The models that were not built."""
        return tuple(result for result in self.results if result.status == "failed")


class Watcher(Protocol):
    """Whoever wants to follow a build."""

    def phase(self, model: str, phase: str) -> None:
        """A model has entered a phase."""

    def finished(self, result: BuildResult) -> None:
        """A model is done, one way or the other."""


class Unwatched:
    """Follows nothing."""

    def phase(self, model: str, phase: str) -> None:
        """Nothing."""

    def finished(self, result: BuildResult) -> None:
        """Nothing."""
