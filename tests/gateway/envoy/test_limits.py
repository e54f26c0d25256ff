"""How much of a model is let in at once, through a real Envoy."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest

from tests.gateway.envoy.stage import Stage, abort, error, stage, until
from tritonfleet.gateway.envoy.plan import Access, Credential, ModelPlan
from tritonfleet.spec.traffic import LimitsSpec, OutlierDetection

pytestmark = pytest.mark.envoy

BERT = {"on": {"bert": "gpu0"}}
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def limited(**limits):
    return ModelPlan("bert", LimitsSpec(**limits))


async def grpc_code(call):
    """The status of a gRPC request, and its words."""
    try:
        await call
    except grpc.aio.AioRpcError as failure:
        return failure.code(), failure.details()
    return grpc.StatusCode.OK, ""


@contextlib.asynccontextmanager
async def crowd(on: Stage, count: int, protocol: str, *, then: int = 0, **headers: str):
    """Requests that stay inside or wait until the end of the block.

    ``then``: so many more, which come when the others are inside and find no place.
    """
    gate = on.triton.gate = asyncio.Event()
    ask = on.post if protocol == "http" else on.infer
    tasks = [asyncio.create_task(ask("bert", **headers)) for _ in range(count)]
    try:
        if then:
            await until(lambda: on.triton.running == count)
            tasks += [asyncio.create_task(ask("bert", **headers)) for _ in range(then)]
            await waiting(on, protocol, then)
        yield tasks
    finally:
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        on.triton.gate = None


async def waiting(on: Stage, protocol: str, count: int) -> None:
    """Returns once so many wait in Envoy."""
    name = f"cluster.{protocol}/bert.upstream_rq_pending_active"

    async def so_many() -> bool:
        return await on.envoy.counter(name) == count

    await until(so_many)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_no_more_than_the_limit_is_inside_and_the_rest_waits(protocol):
    model = limited(max_concurrency=3, queue_limit=10)
    async with stage(model, residency=BERT, concurrency=1) as on:
        async with crowd(on, 10, protocol) as tasks:
            await until(lambda: on.triton.running == 3)
            await waiting(on, protocol, 7)
        assert on.triton.most == 3
        assert len([task.result() for task in tasks]) == 10


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_workers_share_the_limit_but_for_one_request_each(protocol):
    model = limited(max_concurrency=4, queue_limit=100)
    async with stage(model, residency=BERT, concurrency=2) as on:
        async with crowd(on, 40, protocol) as tasks:
            await until(lambda: on.triton.running >= 4)
        assert [task.exception() for task in tasks] == [None] * 40
        assert 4 <= on.triton.most <= 5


@pytest.mark.parametrize("limits", [{"queue_limit": 3}, {"queue_limit": 0}])
async def test_what_exceeds_limit_and_queue_is_refused_at_once_and_says_of_which_model(limits):
    model = limited(max_concurrency=2, **limits)
    queue = limits["queue_limit"]
    async with stage(model, residency=BERT, concurrency=1) as on:
        async with crowd(on, 2, "http", then=queue):
            await until(lambda: on.triton.running == 2)
            answer = await on.post("bert")
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert answer.json()["error"].startswith("bert is at its limits")
        async with crowd(on, 2, "grpc", then=queue):
            await until(lambda: on.triton.running == 2)
            code, words = await grpc_code(on.infer("bert"))
            assert (code, words.split(":")[0]) == (EXHAUSTED, "bert is at its limits")
        assert on.activator.requests == on.activator.calls == []


async def test_without_a_queue_the_limit_holds_over_all_workers():
    model = limited(max_concurrency=3, queue_limit=0)
    async with stage(model, residency=BERT, concurrency=2) as on:
        async with crowd(on, 20, "http") as tasks:
            await until(lambda: sum(task.done() for task in tasks) == 17)
            await until(lambda: on.triton.running == 3)
        assert sorted(task.result().status for task in tasks) == [200] * 3 + [429] * 17


async def test_a_model_at_its_limits_leaves_the_others_alone():
    model = limited(max_concurrency=1, queue_limit=0)
    async with stage(model, "vit", residency={"on": {"bert": "gpu0", "vit": "gpu0"}}) as on:
        gate = on.triton.gate = asyncio.Event()
        task = asyncio.create_task(on.post("bert"))
        await until(lambda: on.triton.running == 1)
        on.triton.gate = None
        assert (await on.post("vit")).status == 200
        gate.set()
        await task


# -- classes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_batch_leaves_room_for_interactive_requests(protocol):
    model = limited(max_concurrency=4, batch_concurrency=1, queue_limit=50)
    async with stage(model, residency=BERT, concurrency=1) as on:
        async with crowd(on, 10, protocol, tritonfleet_class="batch"):
            await waiting(on, protocol, 9)
            await until(lambda: on.triton.running == 1)
            ask = on.post if protocol == "http" else on.infer
            others = [asyncio.create_task(ask("bert")) for _ in range(5)]
            await waiting(on, protocol, 11)
            await until(lambda: on.triton.running == 4)
        await asyncio.gather(*others)
        assert on.triton.most == 4


async def test_a_tenant_of_the_batch_class_gets_the_share_of_batch():
    access = Access(
        tenants=("night", "day"),
        batch_tenants=("night",),
        credentials=(Credential("night", "n"), Credential("day", "d")),
    )
    model = limited(max_concurrency=8, queue_limit=50)
    async with stage(model, residency=BERT, access=access, concurrency=1) as on:
        async with crowd(on, 10, "http", x_api_key="n"):
            await waiting(on, "http", 8)
            await until(lambda: on.triton.running == 2)
        async with crowd(on, 10, "http", x_api_key="d"):
            await waiting(on, "http", 4)
            await until(lambda: on.triton.running == 6)


async def test_without_a_share_for_batch_the_whole_limit_is_everybodys():
    async with stage(limited(max_concurrency=4), residency=BERT, concurrency=1) as on:
        async with crowd(on, 6, "http", tritonfleet_class="batch"):
            await until(lambda: on.triton.running == 4)
            await waiting(on, "http", 2)


# -- time ------------------------------------------------------------------------------------------


async def test_an_answer_that_takes_too_long_is_a_timeout():
    async with stage(limited(timeout_s=0.2), residency=BERT) as on:
        async with crowd(on, 0, "http"):
            answer = await on.post("bert")
            assert (answer.status, answer.json()) == (504, {"error": "bert: no answer in time"})
            assert "grpc-status" not in answer.headers
            code, _ = await grpc_code(on.infer("bert"))
            assert code == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_the_deadline_of_a_call_ends_it_in_triton_too():
    cancelled = asyncio.Event()

    async def hang(call, context):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with stage("bert", residency=BERT) as on:
        on.triton.grpc = hang
        code, _ = await grpc_code(on.call_within(0.3, "bert"))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(cancelled.wait(), 10)


# -- servers that fail -----------------------------------------------------------------------------


async def test_a_server_that_fails_on_a_model_is_passed_over_for_a_while():
    rule = OutlierDetection(consecutive_errors=3, base_ejection_time_s=30)
    model = limited(outlier_detection=rule)
    async with stage(model, "vit", residency={"on": {"bert": "gpu0", "vit": "gpu0"}}) as on:
        on.triton.http = error(500, "broken")
        assert [(await on.post("bert")).status for _ in range(3)] == [500] * 3
        # Envoy's workers hear of it from another thread.

        async def passed_over() -> bool:
            return (await on.post("bert")).status == 200

        await until(passed_over)
        assert (await on.post("bert")).by == "activator"
        # Only of this model.
        assert (await on.post("vit")).status == 500


async def test_errors_of_a_model_alone_do_not_pass_over_its_server():
    async with stage("bert", residency=BERT) as on:
        on.triton.http = error(500, "broken")
        assert [(await on.post("bert")).status for _ in range(10)] == [500] * 10


# -- fallback --------------------------------------------------------------------------------------

FALLBACK = ModelPlan("bert", LimitsSpec(max_concurrency=1, queue_limit=0), has_fallback=True)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_what_a_full_model_refuses_goes_to_the_activator_when_another_may_answer(protocol):
    async with stage(FALLBACK, residency=BERT) as on:
        async with crowd(on, 1, protocol):
            await until(lambda: on.triton.running == 1)
            if protocol == "http":
                answer = await on.post("bert", b"body")
                assert answer.by == "activator"
                assert not any(name.startswith("x-tritonfleet-") for name in answer.headers)
                assert on.activator.bodies == [b"body"]
                assert on.activator.requests[0].headers["x-envoy-attempt-count"] == "2"
            else:
                assert await on.infer("bert") == "activator"
                assert on.activator.calls[0].metadata["x-envoy-attempt-count"] == "2"
        assert on.triton.most == 1


async def test_a_full_queue_of_triton_goes_to_the_activator_when_another_may_answer():
    message = "[request id: <id_unknown>] Exceeds maximum queue size"
    async with stage(FALLBACK, "vit", residency={"on": {"bert": "gpu0", "vit": "gpu0"}}) as on:
        on.triton.http = error(503, message)
        on.triton.grpc = abort(grpc.StatusCode.UNAVAILABLE, message)
        assert (await on.post("bert")).by == await on.infer("bert") == "activator"
        answer = await on.post("vit")
        assert (answer.status, answer.json()) == (503, {"error": message})
        assert not any(name.startswith("x-tritonfleet-") for name in answer.headers)


async def test_a_model_with_a_fallback_that_is_merely_absent_is_not_called_overloaded():
    message = "Request for unknown model: 'bert' is not found"
    async with stage(FALLBACK, residency=BERT) as on:
        on.triton.http, on.triton.grpc = (
            error(404, message),
            abort(grpc.StatusCode.NOT_FOUND, message),
        )
        assert (await on.post("bert")).by == await on.infer("bert") == "activator"
        assert on.activator.requests[0].headers["x-envoy-attempt-count"] == "1"
        assert on.activator.calls[0].metadata["x-envoy-attempt-count"] == "1"
        assert len(on.triton.requests) == len(on.triton.calls) == 1
