"""Many models and room for few of them: the repository and the fleet that cold starts need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy

from fleet_perf.inputs import Tensor
from fleet_perf.peers.job import IDS_PER_ROW, Job
from fleet_perf.peers.repository import TINY, write_fleet, write_repository

_OVERHEAD = 1.3
"""Charged in advance for more than weights, so that the same number always fits."""
_LEAST_FOOTPRINT = 2_000_000
_SLACK = 0.5


@dataclass(frozen=True, slots=True)
class Crowd:
    """Models of one size, three times as many as there is room for."""

    name: str
    job: Job

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models."""
        return self.job.names

    @property
    def footprint(self) -> int:
        """Charged for each of them, in bytes."""
        return max(_LEAST_FOOTPRINT, int(_OVERHEAD * self.job.network.weight_bytes))

    @property
    def capacity(self) -> int:
        """Of the server, in bytes."""
        return int((self.job.room + _SLACK) * self.footprint)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The fleet file and the repository, below a folder."""
        repository, fleet_file = folder / "models", folder / "fleet.yaml"
        write_repository(repository, self.job)
        write_fleet(fleet_file, self.names, self.capacity, self.footprint)
        return fleet_file, repository

    def request(self) -> list[Tensor]:
        """What each of them is asked."""
        random = numpy.random.default_rng(self.job.seed)
        ids = random.integers(self.job.network.vocabulary, size=IDS_PER_ROW, dtype="<i8")
        return [Tensor("ids", "INT64", (1, IDS_PER_ROW), ids.tobytes())]


LARGE = Crowd("25 MB", Job(tiny_models=0))
SMALL = Crowd("tiny", replace(LARGE.job, network=TINY))
