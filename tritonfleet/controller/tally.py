"""What has happened in a fleet since its controller began, in numbers that only grow.

Plain counts without a name or a unit of any monitoring system: whoever shows them gives them one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Durations:
    """How often something was done, and how long it took in all."""

    count: int = 0
    total_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Once more."""
        self.count += 1
        self.total_s += seconds


@dataclass(slots=True)
class Histogram:
    """How many durations were within each bound, the bound itself included."""

    bounds_s: tuple[float, ...]
    total_s: float = 0.0
    counts: list[int] = field(default_factory=list)
    """One for each bound, and a last one for what is beyond them all."""

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds_s) + 1)

    def add(self, seconds: float) -> None:
        """One more duration."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.total_s += seconds

    def copy(self) -> Histogram:
        """As it is now."""
        return Histogram(self.bounds_s, self.total_s, list(self.counts))


@dataclass(slots=True)
class Tally:
    """Loads and unloads that the controller has carried out, by model."""

    loads: defaultdict[tuple[str, str], Durations] = field(
        default_factory=lambda: defaultdict(Durations)
    )
    """By model and server."""
    load_failures: Counter[str] = field(default_factory=Counter)
    unloads: Counter[str] = field(default_factory=Counter)
