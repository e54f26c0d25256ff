"""What the gateway costs a model that is in memory: the same requests through it and past it.

Both sides reach the same instance of the model in the same tritonserver, in turns: direct, gateway,
direct, gateway. Every run is checked against the counters of that server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fleet_perf import analyzer
from fleet_perf.analyzer import Load, Measurement
from fleet_perf.compare import WarmComparison, compare_warm
from fleet_perf.fleet import RunningFleet, check_counters
from fleet_perf.inputs import analyzer_data, make_inputs
from fleet_perf.install import Program
from fleet_perf.scenarios import Effort, WarmScenario, read_input_data
from tritonfleet.errors import FleetError, PerfError, Unstable

Say = Callable[[str], None]


async def measure_warm(
    fleet: RunningFleet,
    program: Program,
    scenario: WarmScenario,
    data: Mapping[str, Any],
    effort: Effort,
    say: Say,
) -> tuple[list[WarmComparison], list[FleetError]]:
    """Every concurrency of a scenario, and why some of them could not be measured.

    ``data`` is what ``input_data`` has made for it.
    """
    found: list[WarmComparison] = []
    failed: list[FleetError] = []
    async with fleet.resident(scenario.model) as triton:
        for concurrency in scenario.concurrency:
            load = Load(
                scenario.model,
                concurrency,
                scenario.batch_size,
                effort.window_ms,
                effort.stability_percentage,
                effort.windows,
            )
            try:
                pairs = await _pairs(fleet, program, load, triton, data, effort.repeats, say)
            except PerfError as error:
                failed.append(error)
                continue
            found.append(compare_warm(load.model, concurrency, load.batch_size, *pairs))
    return found, failed


async def input_data(fleet: RunningFleet, scenario: WarmScenario) -> Mapping[str, Any]:
    """What perf_analyzer is to send, in its own format; InvalidSpec when it does not fit."""
    if scenario.input_data is not None:
        return read_input_data(scenario.input_data)
    config = await fleet.config(scenario.model)
    variants = [
        make_inputs(config, shapes=scenario.shapes, texts=scenario.texts, variant=variant)
        for variant in range(len(scenario.texts))
    ]
    return analyzer_data(variants, config)


async def _pairs(
    fleet: RunningFleet,
    program: Program,
    load: Load,
    triton: str,
    data: Mapping[str, Any],
    repeats: int,
    say: Say,
) -> tuple[list[Measurement], list[Measurement]]:
    sides: tuple[tuple[str, str, list[Measurement]], ...] = (
        ("direct", f"http://{triton}", []),
        ("gateway", fleet.gateway, []),
    )
    for repeat in range(1, repeats + 1):
        for side, address, measurements in sides:
            where = f"{load.model} warm, concurrency {load.concurrency}, {side}"
            say(f"{where}, {repeat} of {repeats} …")
            measurements.append(await _steady(fleet, program, load, address, data))
    return sides[0][2], sides[1][2]


async def _steady(
    fleet: RunningFleet, program: Program, load: Load, address: str, data: Mapping[str, Any]
) -> Measurement:
    """One run, taken a second time when the machine was not quiet enough for the first."""
    try:
        return await _checked(fleet, program, load, address, data)
    except Unstable:
        return await _checked(fleet, program, load, address, data)


async def _checked(
    fleet: RunningFleet, program: Program, load: Load, address: str, data: Mapping[str, Any]
) -> Measurement:
    before = await fleet.counters(address, load.model)
    host_and_port = address.removeprefix("http://")
    measurement = await analyzer.run(program, load, host_and_port, data)
    after = await fleet.counters(address, load.model)
    name = f"{load.model} at {host_and_port}, concurrency {load.concurrency}"
    check_counters(name, before, after, measurement.requests, load.batch_size)
    return measurement
