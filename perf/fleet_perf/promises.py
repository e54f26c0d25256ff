"""The fleet's promises on one machine in one run: no error, within the budget, hardly slower.

First a round-robin over every model, with memory watched; then, model by model and one request at a
time, cold starts against Triton's own load and warm requests against Triton's own answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleet_perf.bare import BareTriton
from fleet_perf.cold import cold_pairs
from fleet_perf.compare import ColdComparison, Ratio, Spread, compare_cold, ratio, spread
from fleet_perf.fleet import RunningFleet, check_counters, failure
from fleet_perf.inputs import Tensor
from fleet_perf.occupancy import ServerOccupancy, Watch
from fleet_perf.rounds import Reply, arrivals, by_kind, round_robin
from fleet_perf.warm import Say
from tritonfleet.errors import FleetError

WARM_PAIRS = 30
_ERRORS_KEPT = 20


@dataclass(frozen=True, slots=True)
class RoundsOrder:
    """How many requests the round-robin sends, and how many cold starts of each model follow."""

    requests: int
    clients: int
    cold_samples: int


@dataclass(frozen=True, slots=True)
class KindFigures:
    """The answers of one kind during the round-robin."""

    latency_s: Spread
    over_bare: Spread | None
    """Each answer's time in multiples of the median bare start of its model; cold kinds only."""


@dataclass(frozen=True, slots=True)
class WarmPairs:
    """One request at a time, gateway and direct in turns, in seconds."""

    model: str
    gateway: Spread
    direct: Spread
    ratio: Ratio


@dataclass(frozen=True, slots=True)
class RoundsReport:
    """Everything one run has shown."""

    requests: int
    clients: int
    models: tuple[str, ...]
    elapsed_s: float
    errors: tuple[str, ...]
    """The first few, as the clients saw them."""
    error_count: int
    kinds: Mapping[str, KindFigures]
    servers: tuple[ServerOccupancy, ...]
    memory_samples: int
    cold: tuple[ColdComparison, ...]
    cold_all: ColdComparison | None
    """The samples of all models together, equally many of each."""
    warm: tuple[WarmPairs, ...]

    @property
    def kept(self) -> bool:
        """No error, and never more in memory than there is room for."""
        return not self.error_count and all(server.within_capacity for server in self.servers)


async def keep_promises(
    fleet: RunningFleet,
    bare: BareTriton,
    requests: Mapping[str, Sequence[Tensor]],
    rounds: RoundsOrder,
    say: Say,
) -> tuple[RoundsReport, list[FleetError]]:
    """The report, and why some model could not be compared."""
    say(f"{rounds.requests} requests to {len(requests)} models, {rounds.clients} clients …")
    started = time.monotonic()
    async with Watch(fleet).running() as watch:
        replies = await round_robin(fleet, requests, rounds.requests, rounds.clients)
    elapsed_s = time.monotonic() - started
    decided = await arrivals(fleet, tuple(requests))
    cold, failed = await _all_cold_pairs(fleet, bare, requests, rounds.cold_samples, say)
    warm, more_failed = await _all_warm_pairs(fleet, requests, say)
    errors = [error_text(reply) for reply in replies if reply.answer.error is not None]
    report = RoundsReport(
        requests=rounds.requests,
        clients=rounds.clients,
        models=tuple(requests),
        elapsed_s=elapsed_s,
        errors=tuple(errors[:_ERRORS_KEPT]),
        error_count=len(errors),
        kinds=kind_figures(by_kind(replies, decided), cold),
        servers=watch.servers,
        memory_samples=watch.samples,
        cold=tuple(cold),
        cold_all=pooled(cold),
        warm=tuple(warm),
    )
    return report, failed + more_failed


def error_text(reply: Reply) -> str:
    """One failed request in a line."""
    return f"{reply.model}: {reply.answer.status} {reply.answer.error}"


def kind_figures(
    kinds: Mapping[str, Sequence[Reply]], cold: Sequence[ColdComparison]
) -> dict[str, KindFigures]:
    """Latencies by kind, and for the cold ones how they compare with a bare start."""
    bare_s = {comparison.model: comparison.bare.p50 for comparison in cold}
    figures = {}
    for kind, replies in kinds.items():
        latency = spread([reply.answer.latency_s for reply in replies])
        multiples = [r.answer.latency_s / bare_s[r.model] for r in replies if r.model in bare_s]
        if latency is not None:
            over_bare = spread(multiples) if kind != "warm" else None
            figures[kind] = KindFigures(latency, over_bare)
    return figures


def pooled(cold: Sequence[ColdComparison]) -> ColdComparison | None:
    """All models' samples as one comparison; None for none."""
    if not cold:
        return None
    gateway_s = [seconds for comparison in cold for seconds in comparison.gateway_s]
    bare_s = [seconds for comparison in cold for seconds in comparison.bare_s]
    return compare_cold("all models", gateway_s, bare_s)


async def _all_cold_pairs(
    fleet: RunningFleet,
    bare: BareTriton,
    requests: Mapping[str, Sequence[Tensor]],
    samples: int,
    say: Say,
) -> tuple[list[ColdComparison], list[FleetError]]:
    found: list[ColdComparison] = []
    failed: list[FleetError] = []
    for model, tensors in requests.items():
        try:
            found.append(await cold_pairs(fleet, bare, model, tensors, samples, say))
        except FleetError as error:
            failed.append(error)
    return found, failed


async def _all_warm_pairs(
    fleet: RunningFleet, requests: Mapping[str, Sequence[Tensor]], say: Say
) -> tuple[list[WarmPairs], list[FleetError]]:
    found: list[WarmPairs] = []
    failed: list[FleetError] = []
    for model, tensors in requests.items():
        say(f"{model} warm, {WARM_PAIRS} pairs …")
        try:
            found.append(await warm_pairs(fleet, model, tensors))
        except FleetError as error:
            failed.append(error)
    return found, failed


async def warm_pairs(fleet: RunningFleet, model: str, tensors: Sequence[Tensor]) -> WarmPairs:
    """One model asked directly and through the gateway in turns; Refused when an answer fails."""
    async with fleet.resident(model) as triton:
        direct = f"http://{triton}"
        sides: tuple[tuple[str, list[float]], ...] = ((direct, []), (fleet.gateway, []))
        before = await fleet.counters(direct, model)
        for pair in range(WARM_PAIRS + 1):
            for address, seconds in sides:
                answer = await fleet.ask(address, model, tensors)
                if answer.error is not None:
                    raise failure(address, model, answer)
                if pair:  # the first one opens the connections
                    seconds.append(answer.latency_s)
        after = await fleet.counters(direct, model)
    check_counters(model, before, after, 2 * (WARM_PAIRS + 1), 1)
    return _warm_figures(model, sides[1][1], sides[0][1])


def _warm_figures(model: str, gateway_s: Sequence[float], direct_s: Sequence[float]) -> WarmPairs:
    gateway, direct = spread(gateway_s), spread(direct_s)
    assert gateway is not None and direct is not None, "WARM_PAIRS is at least 1"
    return WarmPairs(model, gateway, direct, ratio(gateway_s, direct_s))
