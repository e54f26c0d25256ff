"""What became of each model in a build. Facts only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from tritonfleet.errors import FleetError
from tritonfleet.server.layout import Footprint, ManifestEntry, ParityRecord

BuildStatus: TypeAlias = Literal["built", "unchanged", "rejected", "failed"]
"""Rejected: left alone, for a rollback has left behind what would come out."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """One model's outcome."""

    model: str
    status: BuildStatus
    version: int | None = None
    variant: str = ""
    artifact_bytes: int = 0
    random_weights: bool = False
    parity: ParityRecord | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By phase; empty when nothing was done."""
    footprint: Footprint | None = None
    warnings: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    """Why each variant or exporter that failed did so, where another is published."""
    speed_up: float | None = None
    """How many times quicker than the original at the first measured batch size."""
    proven: bool = False
    """Whether a tritonserver has loaded it."""
    error: FleetError | None = None

    @property
    def total_s(self) -> float:
        """Seconds over all phases."""
        return sum(self.seconds.values())

    @classmethod
    def of_entry(cls, model: str, status: BuildStatus, entry: ManifestEntry) -> BuildResult:
        """The outcome that a manifest entry tells."""
        return cls(
            model,
            status,
            version=entry.version,
            variant=entry.variant,
            artifact_bytes=entry.artifact_bytes,
            random_weights=entry.random_weights,
            parity=entry.parity,
            metrics=entry.metrics,
            seconds=entry.timings_s if status == "built" else {},
            footprint=entry.footprint,
            warnings=entry.warnings,
            refused=tuple(each.error for each in entry.variants if each.error is not None),
            speed_up=_speed_up(entry),
            proven=entry.proof is not None,
        )

    def to_json(self) -> dict[str, Any]:
        """The outcome for machines."""
        return {
            "model": self.model,
            "status": self.status,
            "version": self.version,
            "variant": self.variant,
            "artifact_bytes": self.artifact_bytes,
            "random_weights": self.random_weights,
            "parity": self.parity.model_dump() if self.parity else None,
            "metrics": dict(self.metrics),
            "footprint": self.footprint.model_dump() if self.footprint else None,
            "warnings": list(self.warnings),
            "refused": list(self.refused),
            "speed_up": self.speed_up,
            "proven": self.proven,
            "seconds": dict(self.seconds),
            "error": str(self.error) if self.error else None,
            "error_type": type(self.error).__name__ if self.error else None,
        }


def _speed_up(entry: ManifestEntry) -> float | None:
    published = next((each for each in entry.variants if each.name == entry.variant), None)
    if published is None or published.measured is None or entry.original is None:
        return None
    batch = min(published.measured.latency_ms)
    return entry.original.latency_ms[batch] / published.measured.latency_ms[batch]


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

    def begin(self, models: int) -> None:
        """So many models are looked at."""

    def phase(self, model: str, phase: str) -> None:
        """A model has entered a phase."""

    def finished(self, result: BuildResult) -> None:
        """A model is done, one way or the other."""


class Unwatched:
    """Follows nothing."""

    def begin(self, models: int) -> None:
        """Nothing."""

    def phase(self, model: str, phase: str) -> None:
        """Nothing."""

    def finished(self, result: BuildResult) -> None:
        """Nothing."""
