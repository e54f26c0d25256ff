"""All that one comparison has found, and its plain form for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fleet_perf.compare import Spread
from fleet_perf.peers.figures import SystemFigures, Verdict, verdicts
from fleet_perf.peers.job import Effort, Job, lru_hits
from fleet_perf.peers.systems import NATIVE, PYTHON
from tritonfleet.errors import FleetError

FORMAT = 1
"""Of the JSON; raised when a field changes its meaning or its place."""


@dataclass(slots=True)
class PeerResults:
    """One run: the job, every system's figures, and what could not be measured."""

    job: Job
    effort: Effort
    trace: tuple[str, ...]
    environment: dict[str, Any]
    systems: dict[str, SystemFigures] = field(default_factory=dict)
    tiny_bytes: int | None = None
    failed: list[FleetError] = field(default_factory=list)
    quick: bool = False

    @property
    def verdicts(self) -> list[Verdict]:
        """What was promised, line by line."""
        return verdicts(self.systems, NATIVE, PYTHON, self.job.clients, self.tiny_bytes)

    @property
    def good(self) -> bool:
        """Everything was measured that was ordered, and no bound was exceeded."""
        return not self.failed and not any(verdict.missed for verdict in self.verdicts)

    @property
    def lru_hit_ratio(self) -> float:
        """Of the trace with room for so many models, served one by one by a plain LRU."""
        before = self.job.names[-self.job.room :]
        return lru_hits(self.trace, self.job.room, before) / len(self.trace)

    def as_json(self) -> dict[str, Any]:
        """Plain data, figures unrounded."""
        return {
            "format": FORMAT,
            "name": "peers",
            "quick": self.quick,
            "good": self.good,
            "environment": self.environment,
            "job": {**asdict(self.job), "weight_bytes": self.job.network.weight_bytes},
            "effort": asdict(self.effort),
            "trace": list(self.trace),
            "lru_hit_ratio": self.lru_hit_ratio,
            "systems": {name: _system(found) for name, found in self.systems.items()},
            "tiny_bytes": self.tiny_bytes,
            "verdicts": [{**asdict(one), "holds": one.holds} for one in self.verdicts],
            "failed": [str(error) for error in self.failed],
        }


def _system(found: SystemFigures) -> dict[str, Any]:
    """All samples, and the figures that are made of them."""
    summary: dict[str, Any] = {}
    if found.cold:
        summary["cold"] = {
            **_latency(found.cold.latency),
            "cpu_ms_per_load": found.cold.cpu_ms_per_load,
        }
    if found.trace:
        summary["trace"] = {
            "elapsed_s": found.trace.elapsed_s,
            "hit_ratio": found.trace.hit_ratio,
        }
    summary["warm"] = {
        clients: {
            **_latency(warm.latency),
            "cpu_ms_per_request": warm.cpu_ms_per_request,
            "cpu_ms_by_name": warm.cpu_ms_by_name,
        }
        for clients, warm in found.warm.items()
    }
    return {**asdict(found), "summary": summary}


def _latency(latency: Spread) -> dict[str, float]:
    return {"p50_s": latency.p50, "p95_s": latency.p95}
