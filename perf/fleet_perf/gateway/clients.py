"""Starts processes full of clients, waits for them, and reads what they have seen."""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet_perf.analyzer import Protocol as Wire
from fleet_perf.gateway import replies
from fleet_perf.gateway.calls import caller, same_answer
from fleet_perf.gateway.crowd import Crowd
from fleet_perf.gateway.load import LoadOrder, Pattern
from fleet_perf.gateway.replies import Replies
from fleet_perf.gateway.stand import Stand
from tritonfleet.errors import ServerExited, Unstable

STARTUP_S = 3.0
"""Until the processes have imported what they need and all of them ask."""


@dataclass(frozen=True, slots=True)
class Group:
    """Clients of one kind."""

    name: str
    models: tuple[str, ...]
    clients: int
    """Of each protocol, in one process."""
    pattern: Pattern = "zipf"


@dataclass(frozen=True, slots=True)
class GroupReplies:
    """What the clients of one group have seen over one protocol."""

    group: str
    wire: Wire
    replies: Replies


async def answers(measured: Stand, crowd: Crowd) -> dict[str, bytes]:
    """What each model answers; Unstable when two answer the same, for then nobody could tell."""
    found = {}
    async with caller("http", measured.http, crowd.names, crowd.request()) as asking:
        for model in crowd.names:
            outcome = await asking.ask(model)
            if outcome.error:
                raise Unstable(model, f"it cannot be asked: {outcome.error}")
            found[model] = outcome.output
    if any(same_answer(*pair) for pair in itertools.combinations(found.values(), 2)):
        raise Unstable("the crowd", "two of its models answer the same")
    return found


async def flat_out(
    measured: Stand,
    crowd: Crowd,
    wanted: Mapping[str, bytes],
    groups: Sequence[Group],
    until_s: float,
) -> list[GroupReplies]:
    """Every group over both protocols, as fast as they can, until a moment of time.monotonic()."""
    with tempfile.TemporaryDirectory(prefix="tritonfleet-load-") as scratch:
        orders = [
            (group, _order(measured, crowd, wanted, group, wire, until_s, Path(scratch)))
            for group in groups
            for wire in ("http", "grpc")
        ]
        await asyncio.gather(*(_process(order) for _, order in orders))
        return [
            GroupReplies(group.name, order.wire, replies.read(Path(order.output)))
            for group, order in orders
        ]


def until(seconds: float) -> float:
    """The moment when clients that are started now have asked for so long."""
    return time.monotonic() + STARTUP_S + seconds


def _order(
    measured: Stand,
    crowd: Crowd,
    wanted: Mapping[str, bytes],
    group: Group,
    wire: Wire,
    until_s: float,
    scratch: Path,
) -> LoadOrder:
    return LoadOrder(
        wire=wire,
        address=measured.http if wire == "http" else measured.grpc,
        clients=group.clients,
        models=group.models,
        answers=tuple(wanted[model].hex() for model in group.models),
        row=crowd.request()[0].raw.hex(),
        pattern=group.pattern,
        seed=crowd.job.seed,
        until_s=until_s,
        output=str(scratch / f"{group.name}-{wire}.npz"),
    )


async def _process(order: LoadOrder) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fleet_perf.gateway.load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = await process.communicate(order.as_json().encode())
    finally:
        if process.returncode is None:  # we are being cancelled
            process.kill()
            await process.wait()
    if process.returncode:
        tail = "\n".join(said.decode(errors="replace").splitlines()[-20:])
        raise ServerExited("a process of clients", process.returncode, tail)
