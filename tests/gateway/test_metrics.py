"""What Prometheus is told, and where it finds the metrics of Envoy and of the servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.controller.imitation import Triton, controlling, until
from tests.gateway.listening import listening, running
from tritonfleet.controller.ledger import Phase, ResidentView
from tritonfleet.controller.tally import Histogram
from tritonfleet.errors import FleetSaturated, ModelNotFound, ServerUnreachable
from tritonfleet.gateway.desk import WAIT_BOUNDS_S, Asked, Desk, DeskTally, Rules
from tritonfleet.gateway.metrics import Snapshot, snapshot, text
from tritonfleet.gateway.problems import problems
from tritonfleet.gateway.scraping import Scraping


def parsed(exposition):
    """Every sample as {(name, labels): value}; fails on what Prometheus could not read."""
    families = text_string_to_metric_families(exposition.decode())
    found = [sample for family in families for sample in family.samples]
    by_key = {(one.name, tuple(sorted(one.labels.items()))): one.value for one in found}
    assert len(by_key) == len(found), "a series is told twice"
    return by_key


def of(samples, name, **labels):
    """One sample's value."""
    return samples[name, tuple(sorted(labels.items()))]


class Fleet:
    """A controller over an imitated server, and a desk."""

    def __init__(self, triton, controller, desk):
        self.triton, self.controller, self.desk = triton, controller, desk

    def samples(self):
        return parsed(text(snapshot(self.controller, self.desk, fleet="demo", version="1.2.3")))


@contextlib.asynccontextmanager
async def fleet(models=None, **options):
    triton, models = Triton(), models or {"one": 6, "two": 6}
    async with controlling(triton, models, **options) as controller:
        yield Fleet(triton, controller, Desk(controller, Rules(models=tuple(models))))


async def test_a_fresh_fleet_tells_of_every_model_and_server():
    async with fleet() as it:
        samples = it.samples()
        assert of(samples, "tritonfleet_info", fleet="demo", version="1.2.3") == 1
        assert of(samples, "tritonfleet_models", state="UNAVAILABLE") == 2
        assert of(samples, "tritonfleet_server_up", server="gpu0") == 1
        assert of(samples, "tritonfleet_server_budget_bytes", server="gpu0") == 10
        assert of(samples, "tritonfleet_server_occupied_bytes", server="gpu0") == 0
        for model in ("one", "two"):
            assert of(samples, "tritonfleet_model_ready", model=model) == 0
            assert of(samples, "tritonfleet_model_footprint_bytes", model=model) == 6
            assert of(samples, "tritonfleet_model_evictions_total", model=model) == 0
        assert not [name for name, _ in samples if name == "tritonfleet_model_resident_bytes"]


async def test_a_cold_start_is_counted_once_and_a_warm_one_is_none():
    async with fleet() as it:
        for _ in range(2):
            async with it.desk.admit(Asked("one")) as admission:
                admission.proved()
        samples = it.samples()
        assert of(samples, "tritonfleet_model_cold_starts_total", model="one") == 1
        assert of(samples, "tritonfleet_cold_start_wait_seconds_count") == 1
        assert of(samples, "tritonfleet_activator_requests_total") == 2
        assert of(samples, "tritonfleet_model_ready", model="one") == 1
        assert of(samples, "tritonfleet_models", state="READY") == 1
        load = {"model": "one", "server": "gpu0"}
        assert of(samples, "tritonfleet_model_load_seconds_count", **load) == 1
        assert of(samples, "tritonfleet_model_resident_bytes", **load) == 6
        assert of(samples, "tritonfleet_server_occupied_bytes", server="gpu0") == 6


async def test_an_eviction_is_told_apart_from_an_unload_on_request():
    async with fleet(min_residency_s=0.0) as it:
        await it.controller.load("one")
        await it.controller.load("two")
        await it.controller.unload("two")
        samples = it.samples()
        assert of(samples, "tritonfleet_model_evictions_total", model="one") == 1
        assert of(samples, "tritonfleet_model_evictions_total", model="two") == 0
        for model in ("one", "two"):
            assert of(samples, "tritonfleet_model_unloads_total", model=model) == 1


async def test_who_waits_and_who_is_refused_is_told():
    async with fleet() as it:
        it.triton.hold("load", "one")
        waiting = asyncio.create_task(it.controller.load("one"))
        await until(lambda: it.controller.ledger.waiting("one"))
        with pytest.raises(FleetSaturated):
            async with it.controller.lease("one", 0.01):
                pass
        with pytest.raises(ModelNotFound):
            async with it.desk.admit(Asked("three")):
                pass
        samples = it.samples()
        assert of(samples, "tritonfleet_model_waiting_requests", model="one") == 1
        assert of(samples, "tritonfleet_models", state="LOADING") == 1
        assert of(samples, "tritonfleet_activator_refusals_total", reason="ModelNotFound") == 1
        waiting.cancel()


async def test_an_error_after_the_admission_is_no_refusal():
    async with fleet() as it:
        with pytest.raises(ServerUnreachable):
            async with it.desk.admit(Asked("one")):
                raise ServerUnreachable("gpu0", "127.0.0.1:1")
        assert not it.desk.tally.refusals


async def test_a_failed_load_is_counted():
    async with fleet() as it:
        it.triton.broken.add("one")
        with contextlib.suppress(Exception):
            await it.controller.load("one")
        await until(lambda: it.controller.tally.load_failures["one"])
        samples = it.samples()
        assert of(samples, "tritonfleet_model_load_failures_total", model="one") == 1


async def test_a_pinned_model_and_a_lost_server_are_told():
    async with fleet() as it:
        it.controller.pin("one")
        await it.controller.server_lost("gpu0")
        samples = it.samples()
        assert of(samples, "tritonfleet_model_pinned", model="one") == 1
        assert of(samples, "tritonfleet_model_pinned", model="two") == 0
        assert of(samples, "tritonfleet_server_up", server="gpu0") == 0


# -- the text --------------------------------------------------------------------------------------


def told(models=(), residents=(), cold_waits=None):
    """A snapshot of a fleet in which little has happened."""
    desk = DeskTally()
    return Snapshot(
        fleet="demo",
        version="1",
        models=tuple(models),
        footprints={},
        pinned=frozenset(),
        residents=tuple(residents),
        awaited={},
        servers=(),
        up=frozenset(),
        occupied={},
        promised={},
        loads={},
        load_failures={},
        unloads={},
        evictions={},
        cold_starts={},
        cold_waits=cold_waits or desk.cold_waits,
        refusals={},
        counters=SimpleNamespace(requests=0, held=0, held_bytes=0),
    )


def resident(entry, phase=Phase.READY, footprint=5):
    return ResidentView(entry, "gpu0", phase, footprint, 0.0, 0.0, 0, 1, None)


names = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=12)


@given(st.sets(names, max_size=5), names)
def test_whatever_names_there_are_prometheus_reads_them_back(models, one):
    samples = parsed(text(told(models={*models, one})))
    assert of(samples, "tritonfleet_model_ready", model=one) == 0


@given(st.lists(st.floats(0, 1000), max_size=30))
def test_each_bucket_holds_what_took_no_longer_than_its_bound(waits):
    histogram = Histogram(WAIT_BOUNDS_S)
    for wait in waits:
        histogram.add(wait)
    samples = parsed(text(told(cold_waits=histogram)))
    name = "tritonfleet_cold_start_wait_seconds"
    for bound in WAIT_BOUNDS_S:
        within = sum(wait <= bound for wait in waits)
        assert of(samples, f"{name}_bucket", le=str(bound)) == within
    assert of(samples, f"{name}_bucket", le="+Inf") == of(samples, f"{name}_count") == len(waits)
    assert of(samples, f"{name}_sum") == pytest.approx(sum(waits))


def test_versions_beside_a_model_count_as_its_own_memory():
    residents = [resident("one"), resident("one@2"), resident("one@3", Phase.RESERVED)]
    samples = parsed(text(told(["one"], residents)))
    size = of(samples, "tritonfleet_model_resident_bytes", model="one", server="gpu0")
    assert size == 10
    assert of(samples, "tritonfleet_models", state="READY") == 1
    assert of(samples, "tritonfleet_models", state="UNAVAILABLE") == 0


def test_two_texts_share_nothing():
    assert parsed(text(told(["one"]))).keys() - parsed(text(told(["two"]))).keys()


# -- over HTTP -------------------------------------------------------------------------------------


class Envoy:
    """Envoy's admin interface, as far as it is asked."""

    def __init__(self, answer=b"envoy_server_live 1\n"):
        self.answer = answer

    async def prometheus(self):
        if self.answer is None:
            raise ServerUnreachable("envoy", "/run/admin.sock")
        return self.answer


@contextlib.asynccontextmanager
async def scraped(envoy=None, metrics=None):
    """A client of the paths; gives (status, text) for each."""
    async with fleet() as it, aiohttp.ClientSession() as session:
        it.triton.endpoint = SimpleNamespace(
            http="127.0.0.1:1", grpc="127.0.0.1:2", metrics=metrics, pid=None
        )
        app = web.Application(middlewares=[problems])
        scraping = Scraping(it.controller, it.desk, envoy or Envoy(), fleet="demo", version="1")
        scraping.add_to(app)
        async with running(app) as address:

            async def get(path):
                async with session.get(f"http://{address}{path}") as answer:
                    return answer.status, await answer.text()

            get.controller, get.address = it.controller, address
            yield get


async def test_ours_is_text_that_prometheus_reads():
    async with scraped() as get:
        status, said = await get("/metrics")
        assert status == 200
        assert of(parsed(said.encode()), "tritonfleet_models", state="UNAVAILABLE") == 2
        assert "process_cpu_seconds_total" in said


async def test_envoys_metrics_are_relayed_and_its_absence_is_502():
    async with scraped(Envoy()) as get:
        assert await get("/metrics/envoy") == (200, "envoy_server_live 1\n")
    async with scraped(Envoy(None)) as get:
        assert (await get("/metrics/envoy"))[0] == 502


async def test_a_servers_metrics_are_relayed():
    async def metrics(request):
        assert request.path == "/metrics"
        return web.Response(text="nv_inference_count 7\n")

    async with listening(metrics) as address, scraped(metrics=address) as get:
        assert await get("/metrics/servers/gpu0") == (200, "nv_inference_count 7\n")


@pytest.mark.parametrize(("metrics", "says"), [(None, "metrics_url"), ("127.0.0.1:1", "gpu0")])
async def test_a_server_without_metrics_says_so(metrics, says):
    async with scraped(metrics=metrics) as get:
        status, said = await get("/metrics/servers/gpu0")
        assert status in (404, 502)
        assert says in said


async def test_a_server_that_answers_with_an_error_is_502():
    async def broken(_):
        return web.Response(status=500)

    async with listening(broken) as address, scraped(metrics=address) as get:
        assert (await get("/metrics/servers/gpu0"))[0] == 502


async def test_a_foreign_server_is_404_and_a_lost_one_502():
    async with scraped() as get:
        status, said = await get("/metrics/servers/gpu9")
        assert status == 404
        assert "gpu0" in said
        await get.controller.server_lost("gpu0")
        assert (await get("/metrics/servers/gpu0"))[0] == 502


async def test_prometheus_is_told_where_everything_is():
    async with scraped() as get:
        status, said = await get("/metrics/targets")
        assert status == 200
        found = {each["labels"]["job"]: each for each in json.loads(said)}
        assert found.keys() == {"tritonfleet", "envoy", "triton"}
        assert found["triton"] == {
            "targets": [get.address],
            "labels": {
                "job": "triton",
                "server": "gpu0",
                "__metrics_path__": "/metrics/servers/gpu0",
            },
        }
