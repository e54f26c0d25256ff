"""What pairs of runs say about the gateway on a warm model. Pure: values in, values out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from fleet_perf.analyzer import Measurement, Protocol
from fleet_perf.compare import Ratio, ratio
from fleet_perf.gateway.models import COMPUTE
from fleet_perf.gateway.targets import Target

ADDED_CPU_US = 100.0
COMPUTE_RATIO = 0.97
BUSY_CONCURRENCY = 8
"""From here on a proxy's CPU per request counts: below, most of it is waking up."""


@dataclass(frozen=True, slots=True, order=True)
class CellName:
    """One cell of the table."""

    model: str
    protocol: Protocol
    concurrency: int

    def __str__(self) -> str:
        return f"{self.model}, {self.protocol}, concurrency {self.concurrency}"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the tool, with what was counted elsewhere over the same time."""

    measurement: Measurement
    requests: int
    """By Triton's own counter, outside the tool's windows, too."""
    proxy_cpu_ns: int
    """Of all of Envoy's threads."""
    python_requests: int
    """Inferences that the activator has seen."""

    @property
    def cpu_us_per_request(self) -> float:
        """In Envoy."""
        return self.proxy_cpu_ns / 1e3 / self.requests


@dataclass(slots=True)
class Cell:
    """All pairs of one cell: the n-th run of either side make a pair."""

    name: CellName
    direct: list[Run] = field(default_factory=list)
    gateway: list[Run] = field(default_factory=list)

    @property
    def throughput(self) -> Ratio:
        """Gateway over direct."""
        rates = ([run.measurement.throughput for run in side] for side in self._sides())
        return ratio(*rates)

    @property
    def added_p50_us(self) -> float:
        """The median over the pairs."""
        return self._added([[run.measurement.latency_p50_us for run in s] for s in self._sides()])

    @property
    def added_p99_us(self) -> float:
        """The median over the pairs."""
        return self._added([[run.measurement.latency_p99_us for run in s] for s in self._sides()])

    @property
    def cpu_us_per_request(self) -> float:
        """In Envoy, the median of the gateway's runs."""
        return statistics.median(run.cpu_us_per_request for run in self.gateway)

    @property
    def python_requests(self) -> int:
        """Inferences that the activator has seen in all runs through the gateway."""
        return sum(run.python_requests for run in self.gateway)

    def _sides(self) -> tuple[Sequence[Run], Sequence[Run]]:
        return self.gateway, self.direct

    @staticmethod
    def _added(sides: Sequence[Sequence[float]]) -> float:
        return float(statistics.median(one - other for one, other in zip(*sides, strict=True)))


def targets(cells: Sequence[Cell]) -> list[Target]:
    """What is promised of each cell, and of all of them together."""
    found = []
    for cell in cells:
        if cell.name.model == COMPUTE:
            what = f"{cell.name}: throughput ratio"
            found.append(Target(what, cell.throughput.median, COMPUTE_RATIO, at_least=True))
        elif cell.name.concurrency >= BUSY_CONCURRENCY:
            what = f"{cell.name}: CPU µs per request in Envoy"
            found.append(Target(what, cell.cpu_us_per_request, ADDED_CPU_US))
    seen = sum(cell.python_requests for cell in cells)
    return [*found, Target("requests that Python saw, in all cells", seen, 0)]
