"""Clients that never pause, over three times as many models as fit: errors, latency and memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleet_perf.analyzer import Protocol as Wire
from fleet_perf.gateway.clients import Group, GroupReplies, answers, flat_out, until
from fleet_perf.gateway.crowd import LARGE, Crowd
from fleet_perf.gateway.load import Pattern
from fleet_perf.gateway.processor import rss_bytes
from fleet_perf.gateway.replies import Latency, latency
from fleet_perf.gateway.stand import TRITON, Stand, activator_requests, stand
from fleet_perf.gateway.targets import Target
from fleet_perf.occupancy import ServerOccupancy, Watch
from fleet_perf.peers.repository import SERVER
from fleet_perf.warm import Say
from tritonfleet.errors import FleetError, PerfError

PATTERNS: tuple[Pattern, ...] = ("zipf", "round-robin")
MEMORY_EVERY_S = 1.0
_KEPT = 120
"""Samples of memory in the results, however long the run was."""


@dataclass(frozen=True, slots=True)
class ChurnEffort:
    """How long, and how many clients of each protocol."""

    seconds: float = 60.0
    clients: int = 8
    patterns: tuple[Pattern, ...] = PATTERNS
    crowd: Crowd = LARGE

    @staticmethod
    def quick() -> ChurnEffort:
        """Figures to look at, not to keep."""
        return ChurnEffort(seconds=15.0)


@dataclass(frozen=True, slots=True)
class WireFigures:
    """What the clients of one protocol have seen."""

    wire: Wire
    requests: int
    errors: Mapping[str, int]
    per_s: float
    warm: Latency | None
    cold: Latency | None


@dataclass(frozen=True, slots=True)
class MemorySample:
    """RSS of each program in bytes, so many seconds after the start."""

    at_s: float
    bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ChurnRun:
    """One pattern of requests."""

    pattern: Pattern
    seconds: float
    clients: int
    wires: tuple[WireFigures, ...]
    loads: int
    unloads: int
    python_requests: int
    """Inferences that the activator has seen: the cold ones."""
    servers: tuple[ServerOccupancy, ...]
    empty_bytes: int
    """RSS of tritonserver before the first model came."""
    memory: tuple[MemorySample, ...]

    @property
    def error_count(self) -> int:
        """Of both protocols."""
        return sum(count for wire in self.wires for count in wire.errors.values())

    @property
    def held_bytes(self) -> int:
        """The most that tritonserver's memory has grown by."""
        most = max((sample.bytes.get(TRITON, 0) for sample in self.memory), default=0)
        return most - self.empty_bytes


@dataclass(slots=True)
class ChurnFindings:
    """Every pattern."""

    runs: list[ChurnRun] = field(default_factory=list)
    failed: list[FleetError] = field(default_factory=list)

    @property
    def targets(self) -> list[Target]:
        """No error, and never more in memory than there is room for."""
        found = []
        for run in self.runs:
            found.append(Target(f"{run.pattern}: errors", run.error_count, 0))
            for server in run.servers:
                share = server.occupied / server.capacity
                found.append(Target(f"{run.pattern}: charged, of the capacity", share, 1.0))
                held = run.held_bytes / server.capacity
                found.append(Target(f"{run.pattern}: grown, of the capacity", held, 1.0))
        return found


async def measure_churn(effort: ChurnEffort, folder: Path, say: Say) -> ChurnFindings:
    """One run for each pattern, all on one fleet."""
    found, own = ChurnFindings(), folder / "churn"
    own.mkdir()
    say("writing the models …")
    fleet_file, repository = await asyncio.to_thread(effort.crowd.write, own)
    say("starting the fleet …")
    async with stand(fleet_file, repository, own, SERVER) as measured:
        empty_bytes = rss_bytes(measured.pid(TRITON)) or 0
        wanted = await answers(measured, effort.crowd)
        for pattern in effort.patterns:
            say(f"{effort.crowd.job.models} models, {pattern}, {effort.seconds:.0f} s …")
            try:
                found.runs.append(await _run(measured, effort, pattern, wanted, empty_bytes))
            except PerfError as error:
                found.failed.append(error)
    return found


async def _run(
    measured: Stand,
    effort: ChurnEffort,
    pattern: Pattern,
    wanted: Mapping[str, bytes],
    empty_bytes: int,
) -> ChurnRun:
    group = Group(pattern, effort.crowd.names, effort.clients, pattern)
    before = measured.loads_and_unloads()
    seen = activator_requests(await measured.fleet.status())
    async with Watch(measured.fleet).running() as watch, memory_watched(measured) as memory:
        found = await flat_out(measured, effort.crowd, wanted, [group], until(effort.seconds))
    loads, unloads = measured.loads_and_unloads()
    return ChurnRun(
        pattern,
        effort.seconds,
        effort.clients,
        tuple(wire_figures(one) for one in found),
        loads - before[0],
        unloads - before[1],
        activator_requests(await measured.fleet.status()) - seen,
        watch.servers,
        empty_bytes,
        thinned(memory),
    )


def wire_figures(found: GroupReplies) -> WireFigures:
    """The clients' side of one protocol."""
    every = found.replies
    elapsed_s = float(every.ended_s.max() - every.ended_s.min()) if len(every.ended_s) > 1 else 1.0
    return WireFigures(
        found.wire,
        len(every.ended_s),
        every.error_counts(),
        float(every.good.sum()) / elapsed_s,
        latency(every.those(~every.cold)),
        latency(every.those(every.cold)),
    )


@contextlib.asynccontextmanager
async def memory_watched(measured: Stand) -> AsyncIterator[list[MemorySample]]:
    """Samples of every program's memory, as long as the block lasts."""
    samples: list[MemorySample] = []
    task = asyncio.create_task(_sample(measured, samples))
    try:
        yield samples
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _sample(measured: Stand, samples: list[MemorySample]) -> None:
    begun_s = time.monotonic()
    pids = measured.pids()
    while True:
        held = {program: rss_bytes(pid) or 0 for program, pid in pids.items()}
        samples.append(MemorySample(time.monotonic() - begun_s, held))
        await asyncio.sleep(MEMORY_EVERY_S)


def thinned(samples: Sequence[MemorySample]) -> tuple[MemorySample, ...]:
    """Evenly fewer of them; the peak of tritonserver stays."""
    every = -(-len(samples) // _KEPT) or 1
    peak = max(samples, key=lambda one: one.bytes.get(TRITON, 0), default=None)
    return tuple(
        sample for index, sample in enumerate(samples) if index % every == 0 or sample is peak
    )
