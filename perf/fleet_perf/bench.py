"""One run of the bench from start to end: a fleet, its measurements, the results.

Knows the order of things; every measurement is made elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fleet_perf import environment, install
from fleet_perf.bare import bare_triton, check_repository
from fleet_perf.cold import cold_pairs, first_request
from fleet_perf.fleet import RunningFleet, reachable
from fleet_perf.inputs import Tensor
from fleet_perf.promises import RoundsOrder, keep_promises
from fleet_perf.results import Results
from fleet_perf.rounds import requests_for_all
from fleet_perf.scenarios import ColdScenario, Effort, ScenarioFile, WarmScenario
from fleet_perf.serving import started_fleet
from fleet_perf.warm import Say, input_data, measure_warm
from tritonfleet import talk
from tritonfleet.errors import FleetError
from tritonfleet.settings import Settings

QUICK_SAMPLES = 3
_SPARE_CONNECTIONS = 8
"""Beside the clients': for status, statistics and decisions."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be measured, and on which fleet."""

    settings: Settings
    scenarios: tuple[Path, ScenarioFile] | None = None
    rounds: RoundsOrder | None = None
    gateway: str | None = None
    control: str | None = None
    serve: Path | None = None
    """The fleet to start when none answers."""
    quick: bool = False


async def run_bench(order: Order, say: Say, warn: Say) -> Results:
    """Measures what is ordered.

    Raises FleetUnreachable, AnalyzerMissing, LaunchError and the like when nothing can be measured
    at all; what only one model makes impossible is in the results.
    """
    describing = environment.describe()  # before our own load shows in its load average
    busy = environment.busy(describing)
    if busy:
        warn(busy)
    name = order.scenarios[1].name if order.scenarios else "round-robin"
    results = Results(name, describing, quick=order.quick)
    connections = (order.rounds.clients if order.rounds else 0) + _SPARE_CONNECTIONS
    async with contextlib.AsyncExitStack() as stack:
        where = await stack.enter_async_context(_fleet(order, say))
        running = RunningFleet(where.control, where.gateway, connections)
        fleet = await stack.enter_async_context(running)
        if order.scenarios:
            await _scenarios(order, *order.scenarios, fleet, results, say)
        if order.rounds:
            await _rounds(order, order.rounds, fleet, results, say)
    return results


@contextlib.asynccontextmanager
async def _fleet(order: Order, say: Say) -> AsyncIterator[talk.Addresses]:
    settings = order.settings
    found = talk.addresses(settings)
    control = (order.control or found.control).rstrip("/")
    if order.serve is None or await reachable(control):
        gateway = (order.gateway or await _gateway(control)).rstrip("/")
        say(f"measuring the fleet at {gateway} …")
        yield replace(found, control=control, gateway=gateway)
        return
    say(f"starting the fleet of {order.serve} …")
    state_dir = settings.state_dir.resolve()
    async with started_fleet(order.serve, settings.repository, state_dir) as addresses:
        yield addresses


async def _gateway(control: str) -> str:
    """Where the fleet behind a control API takes requests, as it says itself."""
    async with RunningFleet(control, "") as fleet:
        return str((await fleet.status())["gateway"])


async def _scenarios(
    order: Order,
    file: Path,
    scenarios: ScenarioFile,
    fleet: RunningFleet,
    results: Results,
    say: Say,
) -> None:
    scenarios.check_models(file, await fleet.names())
    # All inputs before the first measurement: a mistake in the last scenario shows at once.
    warm = [(one, await input_data(fleet, one)) for one in scenarios.warm()]
    cold = [(one, await first_request(fleet, one)) for one in scenarios.cold()]
    if cold:
        check_repository(order.settings.repository, (scenario.model for scenario, _ in cold))
    if warm:
        await _warm(order, scenarios.effort, warm, fleet, results, say)
    if cold:
        await _cold(order, cold, fleet, results, say)


async def _warm(
    order: Order,
    effort: Effort,
    scenarios: Sequence[tuple[WarmScenario, Mapping[str, Any]]],
    fleet: RunningFleet,
    results: Results,
    say: Say,
) -> None:
    program = await asyncio.to_thread(install.find_or_install, order.settings.state_dir, say)
    wanted = effort.quick() if order.quick else effort
    for scenario, data in scenarios:
        try:
            found, failed = await measure_warm(fleet, program, scenario, data, wanted, say)
        except FleetError as error:
            found, failed = [], [error]
        results.warm += found
        results.failed += failed


async def _cold(
    order: Order,
    scenarios: Sequence[tuple[ColdScenario, Sequence[Tensor]]],
    fleet: RunningFleet,
    results: Results,
    say: Say,
) -> None:
    async with bare_triton(order.settings.repository, order.settings.state_dir) as bare:
        for scenario, tensors in scenarios:
            samples = min(scenario.samples, QUICK_SAMPLES) if order.quick else scenario.samples
            try:
                results.cold.append(
                    await cold_pairs(fleet, bare, scenario.model, tensors, samples, say)
                )
            except FleetError as error:
                results.failed.append(error)


async def _rounds(
    order: Order, rounds: RoundsOrder, fleet: RunningFleet, results: Results, say: Say
) -> None:
    requests = await requests_for_all(fleet, say)
    check_repository(order.settings.repository, requests)
    async with bare_triton(order.settings.repository, order.settings.state_dir) as bare:
        results.rounds, failed = await keep_promises(fleet, bare, requests, rounds, say)
    results.failed += failed
