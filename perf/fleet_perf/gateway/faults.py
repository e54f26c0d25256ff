"""A process is killed while clients ask: which requests fail, and how long nobody is answered.

Two groups of clients ask at once: one for models that stay in memory, one for more models than fit.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fleet_perf.analyzer import Protocol as Wire
from fleet_perf.gateway.clients import STARTUP_S, Group, GroupReplies, answers, flat_out
from fleet_perf.gateway.crowd import LARGE, Crowd
from fleet_perf.gateway.replies import Latency, first_answer_s, last_error_s, latency, longest_gap_s
from fleet_perf.gateway.stand import BRAIN, ENVOY, TRITON, Stand, stand, until_calm
from fleet_perf.gateway.targets import Target
from fleet_perf.peers.repository import SERVER
from fleet_perf.warm import Say
from tritonfleet.errors import FleetError, PerfError

VICTIMS = (ENVOY, BRAIN, TRITON)
RECOVERY_S = 5.0
"""Longer silence than this needs an explanation."""
RESIDENT, CHURNING = "resident", "churning"


@dataclass(frozen=True, slots=True)
class FaultsEffort:
    """How long before and after each kill, and how many clients of each group and protocol."""

    before_s: float = 6.0
    after_s: float = 14.0
    clients: int = 4
    repeats: int = 3
    pinned: int = 4
    """Models that stay in memory, unless their server is killed."""
    victims: tuple[str, ...] = VICTIMS
    crowd: Crowd = LARGE

    @staticmethod
    def quick() -> FaultsEffort:
        """Figures to look at, not to keep."""
        return FaultsEffort(before_s=4.0, after_s=10.0, repeats=1)

    @property
    def groups(self) -> list[Group]:
        """Both groups."""
        names = self.crowd.names
        return [
            Group(RESIDENT, names[: self.pinned], self.clients, "round-robin"),
            Group(CHURNING, names[self.pinned :], self.clients),
        ]


@dataclass(frozen=True, slots=True)
class FaultFigures:
    """What one group has seen of one kill over one protocol."""

    victim: str
    group: str
    wire: Wire
    requests: int
    errors: Mapping[str, int]
    gap_before_s: float
    """The longest time without an answer before the kill: what is usual here."""
    gap_s: float
    """The same after it."""
    errors_end_after_s: float | None
    """From the kill to the last error; None without errors."""
    before: Latency | None
    after: Latency | None

    @property
    def failed(self) -> int:
        """How many requests."""
        return sum(self.errors.values())


@dataclass(slots=True)
class FaultFindings:
    """Every kill, group and protocol."""

    figures: list[FaultFigures] = field(default_factory=list)
    failed: list[FleetError] = field(default_factory=list)

    @property
    def targets(self) -> list[Target]:
        """Every fault is survived: those who ask for models that stay are answered again."""
        worst: dict[str, float] = {}
        for one in self.figures:
            if one.group == RESIDENT:
                what = f"{one.victim} killed, {one.wire}: seconds without an answer"
                worst[what] = max(one.gap_s, worst.get(what, 0.0))
        return [Target(what, gap_s, RECOVERY_S) for what, gap_s in worst.items()]


async def measure_faults(effort: FaultsEffort, folder: Path, say: Say) -> FaultFindings:
    """Each victim several times, all on one fleet that has to recover by itself in between."""
    found, own = FaultFindings(), folder / "faults"
    own.mkdir()
    say("writing the models …")
    fleet_file, repository = await asyncio.to_thread(effort.crowd.write, own)
    say("starting the fleet …")
    async with stand(fleet_file, repository, own, SERVER) as measured:
        wanted = await answers(measured, effort.crowd)
        for model in effort.crowd.names[: effort.pinned]:
            await measured.fleet.act("pin", model)
            await measured.fleet.act("load", model)
        for repeat in range(effort.repeats):
            for victim in effort.victims:
                say(f"kill -9 of {victim}, {repeat + 1} of {effort.repeats} …")
                try:
                    found.figures += await _kill(measured, effort, victim, wanted)
                except PerfError as error:
                    found.failed.append(error)
    return found


async def _kill(
    measured: Stand, effort: FaultsEffort, victim: str, wanted: Mapping[str, bytes]
) -> list[FaultFigures]:
    await until_calm(measured)
    begun_s = time.monotonic() + STARTUP_S
    until_s = begun_s + effort.before_s + effort.after_s
    killing = asyncio.create_task(_killed(measured.pid(victim), begun_s + effort.before_s))
    try:
        seen = await flat_out(measured, effort.crowd, wanted, effort.groups, until_s)
        killed_s = await killing
    finally:
        killing.cancel()
    await until_calm(measured)
    return [fault_figures(victim, one, killed_s, until_s) for one in seen]


async def _killed(pid: int, at_s: float) -> float:
    await asyncio.sleep(at_s - time.monotonic())
    killed_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return killed_s


def fault_figures(victim: str, seen: GroupReplies, killed_s: float, until_s: float) -> FaultFigures:
    """One group's view of one kill, from its first answer to the end."""
    every = seen.replies
    first_s = first_answer_s(every)
    last_s = last_error_s(every)
    return FaultFigures(
        victim,
        seen.group,
        seen.wire,
        len(every.ended_s),
        every.error_counts(),
        0.0 if first_s is None else longest_gap_s(every, first_s, killed_s),
        longest_gap_s(every, killed_s, until_s),
        None if last_s is None else last_s - killed_s,
        latency(every.those(every.ended_s < killed_s)),
        latency(every.those(every.ended_s >= killed_s)),
    )
