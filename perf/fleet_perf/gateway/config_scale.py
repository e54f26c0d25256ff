"""How long a change of the gateway's configuration takes to be in force, by the size of the fleet.

A real Envoy with a trivial server and a trivial activator behind it: what is measured is the way of
a change from us to the next request, never only what Envoy's admin interface says.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from fleet_perf.gateway.targets import Target
from fleet_perf.warm import Say
from tritonfleet.errors import FleetError, ServerTimeout
from tritonfleet.gateway.envoy.dataplane import DataPlane
from tritonfleet.gateway.envoy.files import prepare, remove, run_folder
from tritonfleet.gateway.envoy.plan import GatewayPlan, ModelPlan, ServerAddress, Split
from tritonfleet.gateway.envoy.process import EnvoyOptions, EnvoyProcess
from tritonfleet.gateway.envoy.program import Program, find_program
from tritonfleet.ports import Reservation
from tritonfleet.spec.traffic import LimitsSpec

_HOST = "127.0.0.1"
_SERVER = "gpu0"
_SEEN_TIMEOUT_S = 120.0
_PLAN_LOOK_S = 0.01
_DIRECT, _COLD = b"server", b"activator"
RESIDENCY_P95_MS = 50.0
"""Well below the load of any model, which each such change goes with."""


@dataclass(frozen=True, slots=True)
class ScaleEffort:
    """Which sizes, and how many changes of each kind."""

    sizes: tuple[int, ...] = (10, 1000, 5000)
    residency_changes: int = 60
    plan_changes: int = 3
    resident: int = 20
    """Models that stay in memory meanwhile, at most half of the fleet."""

    @staticmethod
    def quick() -> ScaleEffort:
        """Figures to look at, not to keep."""
        return ScaleEffort(sizes=(10, 1000), residency_changes=20, plan_changes=1)


@dataclass(frozen=True, slots=True)
class ScaleCell:
    """One size of fleet. Seconds each, one figure for each change."""

    models: int
    first_plan_s: float
    """Written, and proved by Envoy, before Envoy is started."""
    start_s: float
    memory_bytes: int
    """Of Envoy, with everything loaded."""
    opened_s: list[float]
    """From ``publish`` to the first request that goes straight to the server."""
    closed_s: list[float]
    """How long ``withdraw`` takes where nothing is under way: on the path of every eviction."""
    late: int
    """Requests that still went straight to the server after that."""
    planned_s: list[float]
    """From a change of one model's limits and versions to the first request that shows it."""
    in_flight_s: list[float]
    """A look at what is under way on all resident models."""


@dataclass(slots=True)
class ScaleFindings:
    """All sizes that could be measured."""

    cells: list[ScaleCell] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    failed: list[FleetError] = field(default_factory=list)


async def measure_config_scale(effort: ScaleEffort, folder: Path, say: Say) -> ScaleFindings:
    """Size after size, each with an Envoy of its own."""
    findings = ScaleFindings()
    program = await find_program()
    for size in effort.sizes:
        say(f"{size} models")
        try:
            cell = await _measure(program, size, effort, folder / str(size))
        except FleetError as error:
            findings.failed.append(error)
            continue
        findings.cells.append(cell)
        findings.targets += _targets(cell)
    return findings


def _targets(cell: ScaleCell) -> list[Target]:
    size = f"{cell.models} models"
    return [
        Target(f"{size}: p95 ms to open", percentile(cell.opened_s, 95) * 1e3, RESIDENCY_P95_MS),
        Target(f"{size}: p95 ms to close", percentile(cell.closed_s, 95) * 1e3, RESIDENCY_P95_MS),
        Target(f"{size}: requests that came late", cell.late, 0),
    ]


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


async def _measure(program: Program, size: int, effort: ScaleEffort, state: Path) -> ScaleCell:
    async with _upstreams(run_folder(state)) as address:
        with _ports() as (http, grpc):
            names = [f"model-{number}" for number in range(size)]
            models = tuple(ModelPlan(name) for name in names)
            plan = GatewayPlan(run_folder(state), _HOST, http, grpc, (address,), models)
            plane = DataPlane(plan.folder, program)
            try:
                return await _run(plane, plan, program, effort, state)
            finally:
                await plane.close()


async def _run(
    plane: DataPlane, plan: GatewayPlan, program: Program, effort: ScaleEffort, state: Path
) -> ScaleCell:
    first_plan_s = await _timed(plane.apply(plan))
    began = time.perf_counter()
    ports = {"http": plan.http_port, "grpc": plan.grpc_port}
    envoy = await EnvoyProcess.start(EnvoyOptions(program, plan.folder, state, _HOST, ports))
    start_s = time.perf_counter() - began
    try:
        async with _asking(plan.http_port, plan.models[-1].name) as ask:
            return await _changes(plane, ask, effort, first_plan_s, start_s, envoy.pid)
    finally:
        await envoy.stop(0)


async def _changes(
    plane: DataPlane, ask: _Ask, effort: ScaleEffort, first_plan_s: float, start_s: float, pid: int
) -> ScaleCell:
    assert plane.plan
    models = plane.plan.models
    memory = psutil.Process(pid).memory_info().rss
    for model in models[: min(effort.resident, len(models) // 2)]:
        plane.publish(model.name, _SERVER)
    opened, closed, late = [], [], 0
    for _ in range(effort.residency_changes):
        opened.append(await _open(plane, ask))
        closed.append(await _timed(plane.withdraw(ask.model)))
        late += (await ask()).startswith(_DIRECT)
    looks = [await _timed(plane.in_flight()) for _ in range(effort.residency_changes)]
    await _open(plane, ask)
    planned = [await _replan(plane, ask, 1 + turn) for turn in range(effort.plan_changes)]
    return ScaleCell(
        len(models), first_plan_s, start_s, memory, opened, closed, late, planned, looks
    )


async def _open(plane: DataPlane, ask: _Ask) -> float:
    began = time.perf_counter()
    plane.publish(ask.model, _SERVER)
    await ask.until(_DIRECT)
    return time.perf_counter() - began


async def _replan(plane: DataPlane, ask: _Ask, version: int) -> float:
    """Another limit and another version of one model: clusters and routes change."""
    assert plane.plan
    limits = LimitsSpec(max_concurrency=8 + version)
    changed = ModelPlan(ask.model, limits=limits, split=Split(stable=version))
    models = tuple(changed if each.name == ask.model else each for each in plane.plan.models)
    began = time.perf_counter()
    applying = asyncio.create_task(plane.apply(replace(plane.plan, models=models)))
    try:
        path = f"/v2/models/{ask.model}/versions/{version}/infer".encode()
        # Not all the time, which would slow down the very work that is waited for.
        await ask.until(_DIRECT + b" " + path, _PLAN_LOOK_S)
        return time.perf_counter() - began
    finally:
        await applying


async def _timed(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


class _Ask:
    """A client on one connection, which asks for one model."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, model: str
    ) -> None:
        self._reader, self._writer, self.model = reader, writer, model
        head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
        self._request = head.encode()

    async def __call__(self) -> bytes:
        """Who has answered, and which path it saw."""
        self._writer.write(self._request)
        _, length = await _head(self._reader)
        return await self._reader.readexactly(length)

    async def until(self, beginning: bytes, pause_s: float = 0.0) -> None:
        """Asks until the answer begins so."""
        deadline = time.monotonic() + _SEEN_TIMEOUT_S
        while not (await self()).startswith(beginning):
            if time.monotonic() > deadline:
                raise ServerTimeout("envoy", "change of configuration", _SEEN_TIMEOUT_S)
            await asyncio.sleep(pause_s)


@contextlib.asynccontextmanager
async def _asking(port: int, model: str) -> AsyncIterator[_Ask]:
    reader, writer = await asyncio.open_connection(_HOST, port)
    try:
        yield _Ask(reader, writer, model)
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def _upstreams(folder: Path) -> AsyncIterator[ServerAddress]:
    """The least that answers HTTP in place of a tritonserver and of the activator."""
    prepare(folder)
    server = await asyncio.start_server(_answering(_DIRECT), _HOST, 0)
    path = folder / "activator-http.sock"
    activator = await asyncio.start_unix_server(_answering(_COLD), path)
    address = f"{_HOST}:{server.sockets[0].getsockname()[1]}"
    try:
        yield ServerAddress(_SERVER, address, address)
    finally:
        server.close()
        activator.close()
        remove(folder)


def _answering(
    who: bytes,
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                first, length = await _head(reader)
                await reader.readexactly(length)
                body = b"%s %s" % (who, first.split()[1])
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    return answer


async def _head(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """The first line of a message, and how long its body is."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return head.split(b"\r\n", 1)[0], int(length[1]) if length else 0


@contextlib.contextmanager
def _ports() -> Iterator[tuple[int, int]]:
    reserved = [Reservation(_HOST, 0, flag) for flag in ("--http-port", "--grpc-port")]
    try:
        yield reserved[0].port, reserved[1].port
    finally:
        for each in reserved:
            each.release()
