"""What a request waits for a model that is not in memory, against the same done by hand.

By hand means: a tritonserver of the same kind with nobody in front of it, a load over gRPC, then
the request; where there is no room, an unload before it, and a wait until the memory is free. Both
sides take turns, request by request.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from fleet_perf.analyzer import Protocol as Wire
from fleet_perf.bare import bare_server
from fleet_perf.compare import ColdComparison, compare_cold
from fleet_perf.gateway.calls import GrpcCaller, HttpCaller, Outcome, caller
from fleet_perf.gateway.crowd import LARGE, SMALL, Crowd
from fleet_perf.gateway.stand import Stand, stand
from fleet_perf.gateway.targets import Target
from fleet_perf.peers.repository import SERVER
from fleet_perf.warm import Say
from tritonfleet.errors import FleetError, PerfError, Unstable
from tritonfleet.server.client import TritonClient

WIRES: tuple[Wire, ...] = ("http", "grpc")
COLD_RATIO = 1.10
_LOAD_TIMEOUT_S = 600.0


class ColdFailed(PerfError):
    """A side gave an error where only answers make a measurement."""

    def __init__(self, side: str, model: str, error: str) -> None:
        super().__init__(side, model, error)
        self.side, self.model, self.error = side, model, error

    def __str__(self) -> str:
        return f"{self.model}, {self.side}: {self.error}"


@dataclass(frozen=True, slots=True)
class ColdEffort:
    """How many pairs of each kind."""

    pairs: int = 48
    crowds: tuple[Crowd, ...] = (LARGE, SMALL)

    @staticmethod
    def quick() -> ColdEffort:
        """Figures to look at, not to keep."""
        return ColdEffort(pairs=12)


@dataclass(frozen=True, slots=True)
class ColdCell:
    """All pairs of one kind."""

    crowd: str
    wire: Wire
    evicting: bool
    """There was no room: another model had to leave first."""
    comparison: ColdComparison
    held_p50_s: float
    """Of the gateway's time, what passed until the model was there."""

    def __str__(self) -> str:
        return f"{self.crowd}, {self.wire}, {'evicting' if self.evicting else 'room free'}"


@dataclass(slots=True)
class ColdFindings:
    """Every kind that could be measured, and why others could not."""

    cells: list[ColdCell] = field(default_factory=list)
    failed: list[FleetError] = field(default_factory=list)

    @property
    def targets(self) -> list[Target]:
        """Only where a load takes long enough for a ratio to mean something, and room is free."""
        return [
            Target(f"{cell}: p50 over by hand", cell.comparison.ratio_p50, COLD_RATIO)
            for cell in self.cells
            if cell.crowd == LARGE.name and not cell.evicting
        ]


class Gateway:
    """A cold start as a client of the fleet has it: one request."""

    name = "gateway"

    def __init__(self, measured: Stand, client: HttpCaller | GrpcCaller) -> None:
        self._stand, self._client = measured, client
        self.held_s: list[float] = []

    async def start(self, model: str, leaving: str | None) -> float:
        """Seconds from the request to its answer; who leaves is up to the fleet."""
        begun = time.perf_counter()
        outcome = await self._client.ask(model)
        elapsed_s = time.perf_counter() - begun
        if not outcome.cold and not outcome.error:
            raise Unstable(model, "it was in memory when it was not supposed to be")
        _must_be_good(self.name, model, outcome)
        self.held_s.append(outcome.wait_ms / 1e3)
        return elapsed_s

    async def unload(self, model: str) -> None:
        """Makes room, outside of what is measured."""
        await self._stand.fleet.act("unload", model)


class ByHand:
    """A cold start as somebody does it who knows what is loaded and what has to leave."""

    name = "by hand"

    def __init__(self, server: TritonClient, client: HttpCaller | GrpcCaller) -> None:
        self._server, self._client = server, client

    async def start(self, model: str, leaving: str | None) -> float:
        """Seconds for the unload where there has to be one, the load and the request."""
        begun = time.perf_counter()
        if leaving is not None:
            await self.unload(leaving)
        await self._server.load(model, _LOAD_TIMEOUT_S)
        outcome = await self._client.ask(model)
        elapsed_s = time.perf_counter() - begun
        _must_be_good(self.name, model, outcome)
        return elapsed_s

    async def unload(self, model: str) -> None:
        """Returns when the memory is free."""
        await self._server.unload(model)
        await self._server.until_unloaded(model)


Side = Gateway | ByHand


def _must_be_good(side: str, model: str, outcome: Outcome) -> None:
    if outcome.error:
        raise ColdFailed(side, model, outcome.error)


async def measure_cold(effort: ColdEffort, folder: Path, say: Say) -> ColdFindings:
    """Every kind of cold start, each crowd on servers of its own."""
    found = ColdFindings()
    for index, crowd in enumerate(effort.crowds):
        own = folder / f"cold-{index}"
        own.mkdir()
        say(f"writing models, {crowd.name} each …")
        fleet_file, repository = await asyncio.to_thread(crowd.write, own)
        say("starting the fleet and a bare Triton …")
        async with (
            stand(fleet_file, repository, own, SERVER) as measured,
            bare_server(repository, own / "bare") as bare,
        ):
            await _Measuring(measured, bare, crowd, effort.pairs, say).run(found)
    return found


class _Measuring:
    def __init__(
        self, measured: Stand, bare: TritonClient, crowd: Crowd, pairs: int, say: Say
    ) -> None:
        self._stand, self._bare, self._crowd = measured, bare, crowd
        self._pairs, self._say = pairs, say

    async def run(self, found: ColdFindings) -> None:
        for wire in WIRES:
            for evicting, measure in ((False, self._with_room), (True, self._evicting)):
                self._say(f"{self._crowd.name}, {wire}, {'evicting' if evicting else 'room'} …")
                try:
                    async with self._sides(wire) as sides:
                        comparison = await measure(sides)
                        held_s = statistics.median(sides[0].held_s)
                except FleetError as error:
                    found.failed.append(error)
                    continue
                found.cells.append(ColdCell(self._crowd.name, wire, evicting, comparison, held_s))

    @contextlib.asynccontextmanager
    async def _sides(self, wire: Wire) -> AsyncIterator[tuple[Gateway, ByHand]]:
        """Both sides, with nothing in memory before and after."""
        names, tensors = self._crowd.names, self._crowd.request()
        gateway = {"http": self._stand.http, "grpc": self._stand.grpc}[wire]
        hand = {"http": self._bare.endpoint.http, "grpc": self._bare.endpoint.grpc}[wire]
        async with (
            caller(wire, gateway, names, tensors) as one,
            caller(wire, hand, names, tensors) as other,
        ):
            sides = Gateway(self._stand, one), ByHand(self._bare, other)
            await self._empty(sides)
            yield sides
            await self._empty(sides)

    async def _empty(self, sides: tuple[Side, ...]) -> None:
        for name in self._crowd.names:
            for side in sides:
                await side.unload(name)

    async def _with_room(self, sides: tuple[Gateway, ByHand]) -> ColdComparison:
        times = _Times()
        for pair in range(self._pairs + 1):
            model = self._crowd.names[pair % len(self._crowd.names)]
            for side in times.turn(sides):
                times.add(side, await side.start(model, None))
                await side.unload(model)
        return times.comparison(self._crowd.name)

    async def _evicting(self, sides: tuple[Gateway, ByHand]) -> ColdComparison:
        """Around the ring: each model is asked for when it is the one longest gone."""
        names, room = self._crowd.names, self._crowd.job.room
        for name in names[:room]:
            for side in sides:
                await side.start(name, None)
        times = _Times()
        for pair in range(self._pairs + 1):
            model, leaving = names[(room + pair) % len(names)], names[pair % len(names)]
            for side in times.turn(sides):
                times.add(side, await side.start(model, leaving))
        return times.comparison(self._crowd.name)


class _Times:
    """Of both sides; who goes first changes with each pair."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {Gateway.name: [], ByHand.name: []}
        self._turns = 0

    def turn(self, sides: tuple[Gateway, ByHand]) -> tuple[Side, ...]:
        self._turns += 1
        return sides if self._turns % 2 else sides[::-1]

    def add(self, side: Side, seconds: float) -> None:
        self._seconds[side.name].append(seconds)

    def comparison(self, what: str) -> ColdComparison:
        """Without the first pair, which opens the connections."""
        gateway_s, by_hand_s = (side[1:] for side in self._seconds.values())
        return compare_cold(what, gateway_s, by_hand_s)
