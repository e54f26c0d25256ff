"""How many exports may run at once: within the cores, and within the memory that is there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tritonfleet.server.layout import directory_bytes

PROCESS_BYTES = 2**30
"""Of an export beside the weights: PyTorch, Transformers and the exporter (0.7 to 0.9 GiB were
measured)."""
WEIGHTS_FACTOR = 4
"""Memory for each byte of weights: an export of 2.4 GB peaked at 2.3 times that (measured), and a
fork that quantises holds it again."""
_USABLE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Limits:
    """What exports may take together."""

    jobs: int
    memory_bytes: int

    @classmethod
    def of_this_machine(cls, jobs: int | None, models: int) -> Limits:
        """The given number of exports, or one for each core, within most of the free memory.

        No more than there are models, so that a lone one may use all cores.
        """
        memory = int(_USABLE_SHARE * psutil.virtual_memory().available)
        return cls(max(min(jobs or cores(), models), 1), memory)

    def admit(self, need_bytes: int, running_bytes: Iterable[int]) -> bool:
        """Whether one more may start; a lone export always may, however large."""
        running = list(running_bytes)
        fits = sum(running) + need_bytes <= self.memory_bytes
        return not running or (len(running) < self.jobs and fits)

    @property
    def threads(self) -> int:
        """For the arithmetic of each, so that together they fill the cores."""
        return max(cores() // self.jobs, 1)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def export_bytes(weights: Path | None) -> int:
    """What an export of these weights may take; of unknown weights, what small ones take."""
    if weights is None or not weights.exists():
        return PROCESS_BYTES
    size = directory_bytes(weights) if weights.is_dir() else weights.stat().st_size
    return PROCESS_BYTES + WEIGHTS_FACTOR * size
