"""What the gateway costs a model that is in memory, over HTTP and gRPC.

Both sides reach the same instance of the model in the same tritonserver. One round takes every cell
once, gateway and direct one after the other, and the next round the other way about: a machine that
slows down meets all cells and both sides alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet_perf import analyzer
from fleet_perf.analyzer import Load, Protocol
from fleet_perf.fleet import check_counters
from fleet_perf.gateway import models
from fleet_perf.gateway.cells import Cell, CellName, Run, targets
from fleet_perf.gateway.processor import cpu_ns
from fleet_perf.gateway.stand import ENVOY, Stand, activator_requests, stand
from fleet_perf.gateway.targets import Target
from fleet_perf.inputs import analyzer_data, make_inputs
from fleet_perf.install import Program
from fleet_perf.warm import Say
from tritonfleet.errors import FleetError, PerfError, Unstable

PROTOCOLS: tuple[Protocol, ...] = ("http", "grpc")
GATEWAY, DIRECT = "gateway", "direct"
_ATTEMPTS = 2
_SMALL_WINDOW_MS = 200
"""At 20,000 answers a second perf_analyzer does not get over longer ones."""


@dataclass(frozen=True, slots=True)
class WarmEffort:
    """Which cells, and how long each is measured."""

    models: tuple[str, ...] = (models.SMALL, models.BIG, models.COMPUTE)
    protocols: tuple[Protocol, ...] = PROTOCOLS
    concurrency: tuple[int, ...] = (1, 8, 32)
    pairs: int = 5
    window_ms: int = 1000
    # All runs are to take the same time: the medians over the pairs judge, not the tool.
    stability_percentage: float = 90.0

    @staticmethod
    def quick() -> WarmEffort:
        """Figures to look at, not to keep."""
        return WarmEffort(pairs=2, window_ms=500)

    @property
    def cells(self) -> list[CellName]:
        """In the order in which they are measured."""
        return [
            CellName(model, protocol, concurrency)
            for model in self.models
            for protocol in self.protocols
            for concurrency in self.concurrency
        ]


@dataclass(slots=True)
class WarmFindings:
    """Every cell that could be measured, and why others could not."""

    cells: list[Cell] = field(default_factory=list)
    failed: list[FleetError] = field(default_factory=list)

    @property
    def targets(self) -> list[Target]:
        """What is promised of each cell."""
        return targets(self.cells)


async def measure_warm(
    program: Program, effort: WarmEffort, folder: Path, say: Say
) -> WarmFindings:
    """All cells, on a fleet of its own; raises LaunchError and the like when there is none."""
    say("writing the models …")
    repository, fleet_file = folder / "models", folder / "fleet.yaml"
    await asyncio.to_thread(models.write_repository, repository)
    models.write_fleet(fleet_file)
    say("starting the fleet …")
    async with stand(fleet_file, repository, folder, models.SERVER) as measured:
        return await _Measuring(measured, program, effort, say).run()


class _Measuring:
    def __init__(self, measured: Stand, program: Program, effort: WarmEffort, say: Say) -> None:
        self._stand, self._program = measured, program
        self._effort, self._say = effort, say
        self._data: dict[str, Mapping[str, Any]] = {}

    async def run(self) -> WarmFindings:
        found, cells = WarmFindings(), {name: Cell(name) for name in self._effort.cells}
        for model in self._effort.models:
            await self._stand.fleet.act("pin", model)
            await self._stand.fleet.act("load", model)
            config = await self._stand.fleet.config(model)
            self._data[model] = analyzer_data([make_inputs(config)], config)
        for pair in range(self._effort.pairs):
            for name in list(cells):
                self._say(f"{name}, pair {pair + 1} of {self._effort.pairs} …")
                try:
                    await self._pair(cells[name], gateway_first=bool(pair % 2))
                except PerfError as error:
                    found.failed.append(error)
                    del cells[name]
        found.cells = list(cells.values())
        return found

    async def _pair(self, cell: Cell, *, gateway_first: bool) -> None:
        sides = (GATEWAY, DIRECT) if gateway_first else (DIRECT, GATEWAY)
        runs = {side: await self._steady(cell.name, side) for side in sides}
        cell.direct.append(runs[DIRECT])
        cell.gateway.append(runs[GATEWAY])

    async def _steady(self, cell: CellName, side: str) -> Run:
        """One run, taken anew when the machine was not quiet enough."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._run(cell, side)
            except Unstable:
                continue
        return await self._run(cell, side)

    async def _run(self, cell: CellName, side: str) -> Run:
        fleet, envoy = self._stand.fleet, self._stand.pid(ENVOY)
        direct = await self._stand.direct()
        gateway = {"http": self._stand.http, "grpc": self._stand.grpc}
        address = (gateway if side == GATEWAY else direct)[cell.protocol]
        triton, load = f"http://{direct['http']}", self._load(cell)
        counted, seen = await fleet.counters(triton, cell.model), await self._python_requests()
        cpu = cpu_ns(envoy)
        measurement = await analyzer.run(self._program, load, address, self._data[cell.model])
        cpu = cpu_ns(envoy) - cpu
        after, seen_after = await fleet.counters(triton, cell.model), await self._python_requests()
        check_counters(f"{cell}, {side}", counted, after, measurement.requests, 1)
        requests = after.succeeded - counted.succeeded
        return Run(measurement, requests, cpu, seen_after - seen)

    def _load(self, cell: CellName) -> Load:
        longest_ms = _SMALL_WINDOW_MS if cell.model == models.SMALL else self._effort.window_ms
        return Load(
            cell.model,
            cell.concurrency,
            window_ms=min(longest_ms, self._effort.window_ms),
            stability_percentage=self._effort.stability_percentage,
            protocol=cell.protocol,
        )

    async def _python_requests(self) -> int:
        return activator_requests(await self._stand.fleet.status())
