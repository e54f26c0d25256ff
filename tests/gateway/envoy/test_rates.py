"""How many requests get through, exactly, as a real Envoy counts them over HTTP and gRPC."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import math
import time
from pathlib import Path

import aiohttp
import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.envoy.backends import INFER, SERVICE, activator, infer_request, triton
from tests.gateway.envoy.running import plan, running, short_folder
from tritonfleet.gateway.envoy import rates
from tritonfleet.gateway.envoy.plan import Access, Credential, ModelPlan
from tritonfleet.spec.traffic import LimitsSpec, RateSpec

SELDOM = 1 / 3600
"""So few per second that no test sees another token."""


def model(name, requests_per_s=SELDOM, burst=None):
    rate = RateSpec(requests_per_s=requests_per_s, burst=burst)
    return ModelPlan(name, limits=LimitsSpec(rate=rate))


def tenants(**own):
    """Tenants whose keys are their names, with what they may send."""
    keys = tuple(Credential(name, f"key-of-{name}") for name in own)
    found = {name: rate for name, rate in own.items() if rate}
    return Access(tenants=tuple(own), credentials=keys, rates=found)


def seldom(burst):
    return RateSpec(requests_per_s=SELDOM, burst=burst)


# -- without Envoy -----------------------------------------------------------------------------


def test_a_fleet_without_rates_has_nothing_of_them(tmp_path):
    bare = plan(tmp_path, "m", access=tenants(acme=None))
    parts = [
        rates.http_filters(bare), rates.late_http_filters(bare), rates.virtual_host(bare),
        rates.route_config(bare, bare.models[0]), rates.route_metadata(bare, bare.models[0]),
        rates.reply_mappers(bare),
    ]  # fmt: skip
    assert not any(parts)


def test_a_model_without_a_rate_is_counted_nowhere(tmp_path):
    limited = plan(tmp_path, "free", model("counted"))
    free, counted = limited.models
    assert rates.late_http_filters(limited)[0]["disabled"]
    assert not rates.route_config(limited, free)
    assert not rates.route_config(limited, None)
    assert rates.route_config(limited, counted)
    (bucket,) = buckets(limited)
    assert bucket["entries"] == [{"key": "model", "value": "counted"}]


def buckets(limited):
    (config,) = rates.virtual_host(limited)["typed_per_filter_config"].values()
    return config["descriptors"]


RATES = st.floats(1 / 86_400, 1_000_000)


@given(RATES, st.none() | st.integers(1, 1_000_000))
def test_a_bucket_is_what_was_asked_for(requests_per_s, burst):
    (found,) = buckets(plan(Path("nowhere"), model("m", requests_per_s, burst)))
    bucket = found["token_bucket"]
    interval_s = float(bucket["fill_interval"].removesuffix("s"))
    # Envoy takes no shorter intervals, and whole milliseconds.
    assert interval_s >= 1 - 1e-9
    assert bucket["tokens_per_fill"] / interval_s == pytest.approx(requests_per_s, rel=1e-3)
    assert bucket["max_tokens"] == (burst or math.ceil(requests_per_s))


# -- a running gateway -------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def gateway(*models, on=None, **fields):
    with short_folder() as folder:
        async with triton() as (backend, server):
            wish = plan(folder, *models, servers=(server,), **fields)
            async with activator(wish) as held, running(wish, on=on) as envoy:
                async with Client(envoy) as client:
                    client.triton, client.activator = backend, held
                    yield client


class Client:
    """Speaks both protocols, each over one connection."""

    def __init__(self, envoy):
        self.envoy = envoy

    async def __aenter__(self):
        self.session = aiohttp.ClientSession()
        self.channel = grpc.aio.insecure_channel(self.envoy.grpc)
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        await self.channel.close()

    async def http(self, path, tenant=None):
        headers = {"x-api-key": f"key-of-{tenant}"} if tenant else {}
        async with self.session.post(self.envoy.http + path, headers=headers) as answer:
            return answer.status, await answer.text(), answer.headers

    async def infer(self, name, tenant=None):
        return (await self.http(f"/v2/models/{name}/infer", tenant))[0]

    async def call(self, name, tenant=None, method=INFER):
        metadata = (("x-api-key", f"key-of-{tenant}"),) if tenant else ()
        call = self.channel.unary_unary(method)(infer_request(name), metadata=metadata)
        return await call.code()


OK, MUCH = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.envoy
async def test_a_burst_is_exact_over_all_workers_protocols_and_routes():
    async with gateway(model("m", burst=20), on={}, concurrency=4) as client:

        async def both():
            answers = [client.infer("m") for _ in range(20)] + [client.call("m") for _ in range(20)]
            return await asyncio.gather(*answers)

        # Each over a connection of its own, so that many workers count.
        apart = [Client(client.envoy) for _ in range(8)]
        async with contextlib.AsyncExitStack() as stack:
            for each in apart:
                await stack.enter_async_context(each)
            answers = await asyncio.gather(
                *(each.infer("m") for each in apart for _ in range(2)),
                *(each.call("m") for each in apart for _ in range(2)),
            )
        answers += await both()
        counted = collections.Counter(answers)
        assert counted[200] + counted[OK] == 20
        assert counted[429] + counted[MUCH] == 52
        assert len(client.activator.requests) + len(client.activator.calls) == 20


@pytest.mark.envoy
async def test_warm_and_cold_requests_draw_on_one_rate():
    async with gateway(model("m", burst=4)) as client:
        assert [await client.infer("m"), await client.call("m")] == [200, OK]
        await client.envoy.follow(on={"m": "gpu0"})
        assert [await client.infer("m"), await client.call("m")] == [200, OK]
        assert [await client.infer("m"), await client.call("m")] == [429, MUCH]
        held, direct = client.activator, client.triton
        assert [len(held.requests), len(held.calls)] == [1, 1]
        assert [len(direct.requests), len(direct.calls)] == [1, 1]


@pytest.mark.envoy
async def test_a_refusal_names_the_model_and_says_when_to_come_back():
    async with gateway(model("bert", 0.25, burst=1)) as client:
        await client.infer("bert")
        status, text, headers = await client.http("/v2/models/bert/infer")
        told = "model 'bert' gets more requests than its rate allows"
        assert (status, json.loads(text)) == (429, {"error": told})
        assert headers["retry-after"] == "4"
        call = client.channel.unary_unary(INFER)(infer_request("bert"))
        assert (await call.code(), await call.details()) == (MUCH, told)


@pytest.mark.envoy
async def test_models_have_rates_of_their_own():
    async with gateway(model("a", burst=1), model("b", burst=2), "free") as client:
        assert [await client.infer("a") for _ in range(2)] == [200, 429]
        assert [await client.call("b") for _ in range(3)] == [OK, OK, MUCH]
        assert {await client.infer("free") for _ in range(9)} == {200}


@pytest.mark.envoy
async def test_questions_about_a_model_are_not_requests_of_it():
    async with gateway(model("m", burst=1)) as client:
        for _ in range(3):
            assert (await client.http("/v2/models/m/config"))[0] == 200
            assert await client.call("m", method=f"{SERVICE}ModelReady") is OK
        assert [await client.infer("m") for _ in range(2)] == [200, 429]


@pytest.mark.envoy
async def test_tokens_come_back_at_the_rate_and_no_faster():
    async with gateway(model("m", 20, burst=2)) as client:
        begin = time.monotonic()
        answers = collections.Counter()
        while answers[200] < 6 or not answers[429]:
            answers[await client.infer("m")] += 1
        # However slow the machine is: never more than the burst and what came in the meantime.
        assert answers[200] <= 2 + 20 * (time.monotonic() - begin)


@pytest.mark.envoy
async def test_a_tenants_rate_is_over_all_models_and_protocols():
    access = tenants(acme=seldom(4), beta=None)
    async with gateway("a", "b", access=access, on={"a": "gpu0"}) as client:
        answers = [
            await client.infer("a", "acme"), await client.infer("b", "acme"),
            await client.call("a", "acme"), await client.call("b", "acme"),
            await client.infer("a", "acme"), await client.call("b", "acme"),
        ]  # fmt: skip
        assert answers == [200, 200, OK, OK, 429, MUCH]
        assert {await client.infer("a", "beta") for _ in range(9)} == {200}


@pytest.mark.envoy
async def test_a_tenants_refusal_names_the_tenant():
    async with gateway("a", access=tenants(acme=seldom(1))) as client:
        await client.infer("a", "acme")
        status, text, headers = await client.http("/v2/models/a/infer", "acme")
        told = "tenant 'acme' sends more requests than its rate allows"
        assert (status, json.loads(text), headers["retry-after"]) == (429, {"error": told}, "1")
        assert int(headers["x-ratelimit-reset"]) > 1


@pytest.mark.envoy
async def test_both_rates_hold_and_strangers_use_up_neither():
    access = tenants(acme=seldom(2), beta=seldom(9))
    async with gateway(model("m", burst=3), access=access) as client:
        assert {await client.infer("m", "stranger") for _ in range(5)} == {401}
        assert [await client.infer("m", "acme") for _ in range(3)] == [200, 200, 429]
        assert [await client.infer("m", "beta") for _ in range(2)] == [200, 429]


@pytest.mark.envoy
async def test_who_may_not_call_a_model_does_not_use_up_its_rate():
    own = ModelPlan("m", limits=model("m", burst=1).limits, tenants=("acme",))
    async with gateway(own, access=tenants(acme=None, beta=None)) as client:
        assert {await client.infer("m", "beta") for _ in range(3)} == {403}
        assert await client.call("m", "beta") is grpc.StatusCode.PERMISSION_DENIED
        assert [await client.call("m", "acme") for _ in range(2)] == [OK, MUCH]


@pytest.mark.envoy
async def test_health_costs_nobody_anything():
    async with gateway("m", access=tenants(acme=seldom(1))) as client:
        for _ in range(3):
            assert (await client.http("/v2/health/live", "acme"))[0] == 200
        assert await client.infer("m", "acme") == 200


@pytest.mark.envoy
async def test_a_rate_changes_while_requests_pass():
    async with gateway(model("m", burst=1)) as client:
        assert [await client.infer("m") for _ in range(2)] == [200, 429]
        await client.envoy.change(models=(model("m", burst=3),))
        assert [await client.infer("m") for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.envoy
async def test_the_largest_and_the_smallest_rate_are_accepted():
    models = (model("much", 1e6, 1_000_000), model("little", 1 / 86_400))
    access = tenants(acme=RateSpec(requests_per_s=1e6), beta=RateSpec(requests_per_s=1 / 86_400))
    async with gateway(*models, access=access) as client:
        assert {await client.infer("much", "acme") for _ in range(20)} == {200}
        assert [await client.infer("little", "beta") for _ in range(2)] == [200, 429]
