"""Which way requests go, through a real Envoy."""

from __future__ import annotations

import gzip

import grpc
import pytest

from tests.gateway.envoy.backends import INFER, SERVICE, infer_request
from tests.gateway.envoy.stage import abort, error, stage, until
from tritonfleet.gateway.envoy.plan import (
    MIRROR_HEADER,
    ModelPlan,
    ServerAddress,
    Split,
)

pytestmark = pytest.mark.envoy

BERT = {"on": {"bert": "gpu0"}}
NOT_FOUND, UNAVAILABLE = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE


async def test_a_resident_model_is_reached_directly_and_any_other_through_the_activator():
    async with stage("bert", "vit", residency=BERT) as on:
        assert (await on.post("bert")).by == "gpu0"
        assert await on.infer("bert") == "gpu0"
        assert (await on.post("vit")).by == "activator"
        assert await on.infer("vit") == "activator"
        assert await on.infer("unknown") == "activator"


async def test_a_change_of_residency_moves_the_next_request():
    async with stage("bert") as on:
        assert (await on.post("bert")).by == "activator"
        await on.envoy.follow(on={"bert": "gpu0"})
        assert (await on.post("bert")).by == await on.infer("bert") == "gpu0"
        await on.envoy.follow(on={})
        assert (await on.post("bert")).by == await on.infer("bert") == "activator"


@pytest.mark.parametrize(
    ("path", "by"),
    [
        ("/v2/models/bert/versions/3/infer", "gpu0"),
        ("/v2/models/bert/generate", "gpu0"),
        ("/v2/models/bert/generate_stream", "gpu0"),
        ("/v2/models/bert/infer?x=/v2/models/vit/infer", "gpu0"),
        ("/v2/models/bert/inferior", "activator"),
        ("/v2/models/bert/ready", "activator"),
        ("/v2/models/bert/trace/setting", "activator"),
        ("/v2/models/bert", "activator"),
        ("/v2/models/bertha/infer", "activator"),
        ("/v2/repository/models/bert/unload", "activator"),
        ("/v2/health/ready", "activator"),
        ("/v2/models/vit/../bert/infer", "gpu0"),
        ("/nothing", "activator"),
    ],
)  # fmt: skip
async def test_only_inference_goes_directly(path, by):
    async with stage("bert", residency=BERT) as on:
        assert (await on.post(path)).by == by


async def test_a_call_of_grpc_at_the_port_of_http_is_a_page_like_any_other():
    async with stage("bert", residency=BERT) as on:
        assert (await on.post(INFER)).by == "activator"
        assert (on.triton.calls, on.activator.calls) == ([], [])


async def test_every_call_of_grpc_is_the_activators_that_is_no_inference():
    async with stage("bert", residency=BERT) as on:
        for path in ("/grpc.health.v1.Health/Check", SERVICE + "ServerReady", "/any.Service/It"):
            await on.channel.unary_unary(path)(b"")
            assert on.activator.calls[-1].method == path
        assert on.activator.requests == on.triton.calls == []


async def test_no_management_of_triton_is_reached_from_outside():
    async with stage("bert", residency=BERT) as on:
        for path in ("/v2/repository/models/bert/load", "/v2/logging", "/v2/models/bert//load"):
            await on.post(path)
        await on.session.post(on.envoy.http + "/v2/models/bert/%2e%2e/%2e%2e/logging")
        assert on.triton.requests == []


async def test_each_model_is_reached_on_its_own_server():
    residency = {"on": {"bert": "gpu0", "vit": "gpu1"}}
    async with stage("bert", "vit", "cold", servers=2, residency=residency) as on:
        for _ in range(4):
            assert (await on.post("bert")).by == await on.infer("bert") == "gpu0"
            assert (await on.post("vit")).by == await on.infer("vit") == "gpu1"
        assert (await on.post("cold")).by == await on.infer("cold") == "activator"
        await on.envoy.follow(on={"bert": "gpu1"})
        assert (await on.post("bert")).by == await on.infer("bert") == "gpu1"


async def test_without_servers_everything_goes_to_the_activator():
    async with stage("bert", servers=0, residency=BERT) as on:
        assert (await on.post("bert")).by == await on.infer("bert") == "activator"


async def test_a_model_that_is_added_and_taken_away_while_envoy_runs():
    async with stage("bert", residency=BERT) as on:
        await on.envoy.change(models=(ModelPlan("bert"), ModelPlan("vit")))
        await on.envoy.follow(on={"bert": "gpu0", "vit": "gpu0"})
        assert (await on.post("vit")).by == await on.infer("vit") == "gpu0"
        await on.envoy.change(models=(ModelPlan("bert"),))
        assert (await on.post("vit")).by == await on.infer("vit") == "activator"


# -- streams ---------------------------------------------------------------------------------------


async def test_a_stream_goes_to_the_activator_even_for_models_in_memory():
    async with stage("bert", residency=BERT) as on:
        assert await on.stream("bert", "bert") == ["activator", "activator"]


# -- the message -----------------------------------------------------------------------------------


async def test_the_last_of_two_names_counts_as_it_does_for_triton():
    async with stage("bert", "vit", residency=BERT) as on:
        assert await on.infer("", body=infer_request("vit") + infer_request("bert")) == "gpu0"
        assert await on.infer("", body=infer_request("bert") + infer_request("vit")) == "activator"


async def test_compressed_messages_go_to_the_activator_and_compressed_http_directly():
    async with stage("bert", residency=BERT) as on:
        async with grpc.aio.insecure_channel(
            on.envoy.grpc, compression=grpc.Compression.Gzip
        ) as channel:
            on.channel = channel
            big = infer_request("bert", raw_input_contents=[b"\0" * 10_000])
            assert await on.infer("", body=big) == "activator"
        packed = gzip.compress(b"{}")
        assert (await on.post("bert", packed, content_encoding="gzip")).by == "gpu0"
        assert on.triton.bodies == [packed]


async def test_bytes_arrive_as_they_were_sent():
    body, message = (
        bytes(range(256)) * 20_000,
        infer_request("bert", raw_input_contents=[b"7" * 5_000_000]),
    )
    async with stage("bert", residency=BERT) as on:
        await on.post("bert", body, inference_header_content_length="100")
        await on.infer("", body=message)
        assert on.triton.bodies == [body]
        assert on.triton.calls[0].message == message
        assert on.triton.requests[0].headers["Inference-Header-Content-Length"] == "100"


# -- retries ---------------------------------------------------------------------------------------

ABSENT = [
    "Request for unknown model: 'bert' is not found",
    "Request for unknown model: 'bert' has no available versions",
    "Request for unknown model: 'bert' version 1 is not at ready state",
]
PRESENT = [
    "Request for unknown model: 'bert' version 9 is not found",
    "Request for unknown model: 'member' is not found",
    "in ensemble 'bert', Request for unknown model: 'bert' is not found",
    "Request timeout expired",
]


@pytest.mark.parametrize("message", ABSENT)
async def test_a_request_that_meets_an_absent_model_is_answered_by_the_activator(message):
    body = b"x" * 3_000_000
    async with stage("bert", residency=BERT) as on:
        status = 503 if "ready state" in message else 404
        on.triton.http = error(status, message)
        on.triton.grpc = abort(UNAVAILABLE if status == 503 else NOT_FOUND, message)
        answer = await on.post("bert", body)
        assert answer.by == "activator"
        assert "x-tritonfleet-absent" not in answer.headers
        assert (
            await on.infer("", body=infer_request("bert", raw_input_contents=[body])) == "activator"
        )
        assert len(on.triton.requests) == len(on.triton.calls) == 1
        assert on.activator.bodies == [body]
        assert on.activator.requests[0].headers["x-envoy-attempt-count"] == "2"
        assert on.activator.calls[0].metadata["x-envoy-attempt-count"] == "2"


@pytest.mark.parametrize("message", PRESENT)
@pytest.mark.parametrize("status", [404, 503])
async def test_no_other_answer_is_replayed(message, status):
    async with stage("bert", residency=BERT) as on:
        on.triton.http = error(status, message)
        on.triton.grpc = abort(NOT_FOUND if status == 404 else UNAVAILABLE, message)
        answer = await on.post("bert")
        assert (answer.status, answer.json()) == (status, {"error": message})
        with pytest.raises(grpc.aio.AioRpcError, match=r"[Rr]equest"):
            await on.infer("bert")
        assert on.activator.requests == on.activator.calls == []
        assert len(on.triton.requests) == len(on.triton.calls) == 1


async def test_what_the_activator_says_of_an_absent_model_is_final():
    async with stage("bert", residency=BERT) as on:
        on.triton.http = error(404, ABSENT[0])
        on.activator.http = error(404, ABSENT[0], **{"tritonfleet-residency": "cold"})
        answer = await on.post("bert")
        assert (answer.status, answer.headers["tritonfleet-residency"]) == (404, "cold")
        assert len(on.triton.requests) == len(on.activator.requests) == 1


async def test_a_server_that_is_gone_is_passed_over_without_an_error():
    async with stage("bert", servers=1, residency=BERT) as on:
        nobody = ServerAddress("gpu0", "127.0.0.1:1", "127.0.0.1:1")
        await on.envoy.change(servers=(nobody,))
        for _ in range(20):
            assert (await on.post("bert")).by == await on.infer("bert") == "activator"


async def test_a_request_that_may_have_run_is_never_sent_again():
    async def break_off(request):
        request.transport.abort()

    async with stage("bert", residency=BERT) as on:
        on.triton.http = break_off
        answer = await on.post("bert")
        assert answer.status == 503
        assert "may have run" in answer.json()["error"]
        assert len(on.triton.requests) == 1
        assert on.activator.requests == []


# -- versions --------------------------------------------------------------------------------------

CANARY = ModelPlan("bert", split=Split(stable=1, canary=2))


def versions(calls):
    return [call.request.model_version for call in calls]


async def test_a_canary_gets_its_share_and_the_stable_version_the_rest():
    async with stage(CANARY, residency={**BERT, "canary_percent": {"bert": 30}}) as on:
        for _ in range(200):
            await on.post("bert")
            await on.infer("bert")
        paths = [request.path for request in on.triton.requests]
        assert set(paths) == {f"/v2/models/bert/versions/{v}/infer" for v in (1, 2)}
        assert set(versions(on.triton.calls)) == {"1", "2"}
        # 30 % of 200: beyond these bounds once in 10^9 runs.
        assert 25 < paths.count("/v2/models/bert/versions/2/infer") < 100
        assert 25 < versions(on.triton.calls).count("2") < 100


async def test_a_canary_without_a_share_gets_nothing_and_with_the_whole_everything():
    async with stage(CANARY, residency={**BERT, "canary_percent": {"bert": 0}}) as on:
        for _ in range(20):
            await on.infer("bert")
        assert set(versions(on.triton.calls)) == {"1"}
        await on.envoy.follow(on={"bert": "gpu0"}, canary_percent={"bert": 100})
        on.triton.calls.clear()
        for _ in range(20):
            await on.infer("bert")
        assert set(versions(on.triton.calls)) == {"2"}


async def test_a_version_that_is_asked_for_is_given():
    async with stage(CANARY, residency={**BERT, "canary_percent": {"bert": 100}}) as on:
        await on.post("/v2/models/bert/versions/1/infer")
        await on.infer("bert", "1")
        assert on.triton.requests[0].path == "/v2/models/bert/versions/1/infer"
        assert versions(on.triton.calls) == ["1"]


async def test_a_canary_that_is_not_in_memory_is_replayed_like_any_other():
    async with stage(CANARY, residency={**BERT, "canary_percent": {"bert": 100}}) as on:
        message = "Request for unknown model: 'bert' version 2 is not at ready state"
        on.triton.http, on.triton.grpc = error(503, message), abort(UNAVAILABLE, message)
        assert (await on.post("bert")).by == await on.infer("bert") == "activator"


# -- mirroring -------------------------------------------------------------------------------------


async def test_copies_of_requests_go_to_the_activator_and_their_answers_nowhere():
    mirrored = ModelPlan("bert", mirrored=True)
    async with stage(mirrored, residency={**BERT, "mirror_percent": {"bert": 100}}) as on:
        on.activator.http = error(500, "the mirror is broken")
        assert (await on.post("bert", b"copied")).by == "gpu0"
        assert await on.infer("bert") == "gpu0"
        await until(lambda: on.activator.requests and on.activator.calls)
        assert "-shadow" in on.activator.requests[0].host
        assert on.activator.bodies == [b"copied"]
        assert on.activator.calls[0].request.model_name == "bert"
        assert on.activator.calls[0].metadata[MIRROR_HEADER] == "1"
        assert MIRROR_HEADER not in on.triton.calls[0].metadata


async def test_a_mirror_without_a_share_gets_no_copies():
    async with stage(ModelPlan("bert", mirrored=True), residency=BERT) as on:
        for _ in range(20):
            await on.post("bert")
        await on.post("/v2/health/live")
        assert [request.path for request in on.activator.requests] == ["/v2/health/live"]
