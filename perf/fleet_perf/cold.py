"""What a request waits for a model that is not in memory, and how much of it is Triton's own load.

Pairs in turns: the model leaves the fleet, and the first request through the gateway is timed; then
a bare tritonserver loads the same files and answers the same request.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from fleet_perf.bare import BareTriton
from fleet_perf.compare import ColdComparison, compare_cold
from fleet_perf.fleet import RunningFleet, failure
from fleet_perf.inputs import Tensor, make_inputs
from fleet_perf.scenarios import ColdScenario
from fleet_perf.warm import Say
from tritonfleet.errors import FleetError, Unstable


async def first_request(fleet: RunningFleet, scenario: ColdScenario) -> list[Tensor]:
    """What a scenario asks its model; InvalidSpec when the shapes it gives do not fit."""
    config = await fleet.config(scenario.model)
    return make_inputs(config, shapes=scenario.shapes, texts=scenario.texts)


async def cold_pairs(
    fleet: RunningFleet,
    bare: BareTriton,
    model: str,
    tensors: Sequence[Tensor],
    samples: int,
    say: Say,
) -> ColdComparison:
    """So many pairs; the model is in the fleet's memory afterwards.

    Raises Unstable when an answer was no cold start, LoadFailed and the like when there is none.
    """
    gateway_s: list[float] = []
    bare_s: list[float] = []
    async with _free_to_leave(fleet, model) as models:
        # The first pair reads the files from disk and does not count.
        for sample in range(samples + 1):
            say(f"{model} cold, pair {sample} of {samples} …")
            gateway_s.append(await _fleet_start(fleet, model, models, tensors))
            bare_s.append((await bare.start(model, tensors)).total_s)
    return compare_cold(model, gateway_s[1:], bare_s[1:])


async def _fleet_start(
    fleet: RunningFleet, model: str, models: Sequence[str], tensors: Sequence[Tensor]
) -> float:
    await fleet.unload(models)
    answer = await fleet.ask(fleet.gateway, model, tensors)
    if answer.error is not None:
        raise failure(fleet.gateway, model, answer)
    if not answer.cold:
        raise Unstable(model, "somebody else had it loaded between the unload and the request")
    return answer.latency_s


@contextlib.asynccontextmanager
async def _free_to_leave(fleet: RunningFleet, model: str) -> AsyncIterator[tuple[str, ...]]:
    """Lifts the pins of a model and of what it calls; yields their names, callers first."""
    models = await fleet.closure(model)
    status = await fleet.status()
    pinned = [m["name"] for m in status["models"] if m["pinned"] and m["name"] in models]
    for name in pinned:
        await fleet.act("unpin", name)
    try:
        yield models
    finally:
        for name in pinned:
            with contextlib.suppress(FleetError):
                await fleet.act("pin", name)
