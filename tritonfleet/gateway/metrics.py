"""What the controller knows and what has come to the desk, as text for Prometheus.

The facts are copied on the event loop, which takes a moment, and made into text beside it: with
thousands of models that takes longer than a cold start should have to wait.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from tritonfleet.controller.controller import Controller
from tritonfleet.controller.ledger import OCCUPIED, Phase, ResidentView, ServerFacts
from tritonfleet.controller.status import STATE
from tritonfleet.controller.tally import Durations, Histogram
from tritonfleet.controller.versions import parts_of
from tritonfleet.gateway.desk import Counters, Desk

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STATES = ("UNAVAILABLE", "LOADING", "READY", "UNLOADING")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is told, as it was at one moment."""

    fleet: str
    version: str
    models: tuple[str, ...]
    footprints: Mapping[str, int]
    pinned: frozenset[str]
    residents: tuple[ResidentView, ...]
    awaited: Mapping[str, int]
    servers: tuple[ServerFacts, ...]
    up: frozenset[str]
    occupied: Mapping[str, int]
    promised: Mapping[str, int]
    loads: Mapping[tuple[str, str], Durations]
    load_failures: Mapping[str, int]
    unloads: Mapping[str, int]
    evictions: Mapping[str, int]
    cold_starts: Mapping[str, int]
    cold_waits: Histogram
    refusals: Mapping[str, int]
    counters: Counters


def snapshot(controller: Controller, desk: Desk, *, fleet: str, version: str) -> Snapshot:
    """The present state of a fleet."""
    ledger, done, asked = controller.ledger, controller.tally, desk.tally
    servers = ledger.servers
    return Snapshot(
        fleet=fleet,
        version=version,
        models=ledger.names,
        footprints={model: ledger.footprint(model) for model in ledger.names},
        pinned=ledger.pinned,
        residents=ledger.residents(controller.now()),
        awaited=ledger.awaited(),
        servers=servers,
        up=frozenset(controller.servers()),
        occupied={server.name: ledger.occupied(server.name) for server in servers},
        promised={server.name: ledger.promised(server.name) for server in servers},
        loads={key: replace(durations) for key, durations in done.loads.items()},
        load_failures=done.load_failures.copy(),
        unloads=done.unloads.copy(),
        evictions=ledger.evictions.copy(),
        cold_starts=asked.cold_starts.copy(),
        cold_waits=asked.cold_waits.copy(),
        refusals=asked.refusals.copy(),
        counters=replace(desk.counters),
    )


async def exposition(told: Snapshot) -> bytes:
    """The text for Prometheus, this process's own CPU, memory and files included."""
    return await asyncio.to_thread(text, told)


def text(told: Snapshot) -> bytes:
    """The same for whoever has no event loop."""
    registry = CollectorRegistry()
    registry.register(_Told(told))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Told(Collector):
    def __init__(self, told: Snapshot) -> None:
        self._told = told

    def collect(self) -> Iterator[Metric]:
        return itertools.chain(
            _fleet(self._told), _servers(self._told), _models(self._told), _desk(self._told)
        )


# -- families --------------------------------------------------------------------------------------


def _fleet(told: Snapshot) -> Iterator[Metric]:
    about = GaugeMetricFamily(
        "tritonfleet_info", "Always 1; which fleet this is.", labels=("fleet", "version")
    )
    about.add_metric((told.fleet, told.version), 1)
    yield about
    states = Counter({one.model: STATE[one.phase] for one in _models_themselves(told)}.values())
    states["UNAVAILABLE"] = len(told.models) - states.total()
    yield _gauge("tritonfleet_models", "Models of the fleet.", "state", _STATES, states)


def _servers(told: Snapshot) -> Iterator[Metric]:
    names = [server.name for server in told.servers]
    of = {server.name: server for server in told.servers}
    figures: tuple[tuple[str, str, Mapping[str, float]], ...] = (
        ("up", "1 while the server runs.", {name: name in told.up for name in names}),
        (
            "capacity_bytes",
            "Memory that models may occupy, the margin included.",
            {name: of[name].capacity + of[name].margin for name in names},
        ),
        (
            "budget_bytes",
            "Memory that models may be promised: the capacity less the margin.",
            {name: of[name].capacity for name in names},
        ),
        (
            "head_room_bytes",
            "Memory of the budget that idle models do not get.",
            {name: of[name].head_room for name in names},
        ),
        ("occupied_bytes", "Memory that models hold, those that leave included.", told.occupied),
        ("promised_bytes", "Memory of models that are there or come.", told.promised),
    )
    for name, about, values in figures:
        yield _gauge(f"tritonfleet_server_{name}", about, "server", names, values)


def _models(told: Snapshot) -> Iterator[Metric]:
    yield from _residency(told)
    yield from _work(told)


def _residency(told: Snapshot) -> Iterator[Metric]:
    resident = GaugeMetricFamily(
        "tritonfleet_model_resident_bytes",
        "Memory that a model holds, on the server that has it, all versions together.",
        labels=("model", "server"),
    )
    for key, size in _resident_bytes(told).items():
        resident.add_metric(key, size)
    yield resident
    ready = {one.model for one in told.residents if one.phase is Phase.READY}
    under_way: Counter[str] = Counter()
    for one in told.residents:
        under_way[parts_of(one.model)[0]] += one.in_flight + one.leases
    figures: tuple[tuple[str, str, Mapping[str, float]], ...] = (
        ("ready", "1 while requests to the model need not wait for a load.", _ones(ready)),
        ("pinned", "1 for a model that is never evicted.", _ones(told.pinned)),
        ("footprint_bytes", "Memory that the model takes when loaded.", told.footprints),
        ("waiting_requests", "Requests that wait for the model.", told.awaited),
        (
            "in_flight_requests",
            "Requests at the model; those that do not pass through Python as last seen.",
            under_way,
        ),
    )
    for name, about, values in figures:
        yield _gauge(f"tritonfleet_model_{name}", about, "model", told.models, values)


def _work(told: Snapshot) -> Iterator[Metric]:
    loads = SummaryMetricFamily(
        "tritonfleet_model_load_seconds", "Loads that succeeded.", labels=("model", "server")
    )
    for key, durations in told.loads.items():
        loads.add_metric(key, count_value=durations.count, sum_value=durations.total_s)
    yield loads
    figures = (
        ("load_failures", "Loads that failed.", told.load_failures),
        ("unloads", "Unloads, evictions included.", told.unloads),
        ("evictions", "How often the model had to leave for others.", told.evictions),
        ("cold_starts", "Requests that had to wait for a load and got it.", told.cold_starts),
    )
    for name, about, values in figures:
        yield _counter(f"tritonfleet_model_{name}", about, "model", told.models, values)


def _desk(told: Snapshot) -> Iterator[Metric]:
    yield _histogram(
        "tritonfleet_cold_start_wait_seconds",
        "How long requests waited for their models to be loaded.",
        told.cold_waits,
    )
    counters = told.counters
    requests = CounterMetricFamily(
        "tritonfleet_activator_requests",
        "Requests that came to Python: those to models in memory do not.",
    )
    requests.add_metric((), counters.requests)
    yield requests
    held = ("held_requests", "Of these, the ones that are there now.", counters.held)
    size = ("held_bytes", "Memory that these take.", counters.held_bytes)
    for name, about, value in (held, size):
        yield GaugeMetricFamily(f"tritonfleet_activator_{name}", about, value=value)
    reasons = sorted(told.refusals)
    about = "Requests that got no model, by the name of the error."
    yield _counter("tritonfleet_activator_refusals", about, "reason", reasons, told.refusals)


# -- small facts -----------------------------------------------------------------------------------


def _models_themselves(told: Snapshot) -> Iterator[ResidentView]:
    """Without the further versions that are beside some."""
    return (one for one in told.residents if parts_of(one.model)[1] is None)


def _resident_bytes(told: Snapshot) -> Counter[tuple[str, str]]:
    sizes: Counter[tuple[str, str]] = Counter()
    for one in told.residents:
        if one.phase in OCCUPIED:
            sizes[parts_of(one.model)[0], one.server] += one.footprint
    return sizes


def _ones(names: Iterable[str]) -> dict[str, float]:
    return dict.fromkeys(names, 1.0)


def _gauge(
    name: str, about: str, label: str, values: Iterable[str], figures: Mapping[str, float]
) -> Metric:
    """One figure for each value of a label; 0 where there is none."""
    family = GaugeMetricFamily(name, about, labels=(label,))
    for value in values:
        family.add_metric((value,), figures.get(value, 0))
    return family


def _counter(
    name: str, about: str, label: str, values: Iterable[str], figures: Mapping[str, float]
) -> Metric:
    family = CounterMetricFamily(name, about, labels=(label,))
    for value in values:
        family.add_metric((value,), figures.get(value, 0))
    return family


def _histogram(name: str, about: str, told: Histogram) -> Metric:
    bounds = (*map(str, told.bounds_s), "+Inf")
    buckets = list(zip(bounds, itertools.accumulate(map(float, told.counts)), strict=True))
    family = HistogramMetricFamily(name, about)
    family.add_metric((), buckets, told.total_s)
    return family
