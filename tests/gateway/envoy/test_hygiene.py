"""Headers, sizes, abuse, answers of Envoy's own and the access log, through a real Envoy."""

from __future__ import annotations

import asyncio
import json
import stat

import grpc
import pytest

from tests.gateway.envoy.backends import STREAM, infer_request
from tests.gateway.envoy.stage import Stage, error, stage, until
from tritonfleet.gateway.envoy.plan import ModelPlan
from tritonfleet.spec.traffic import LimitsSpec

pytestmark = pytest.mark.envoy

BERT = {"on": {"bert": "gpu0"}}


async def raw(on: Stage, text: bytes) -> bytes:
    """What Envoy answers to bytes that are not quite HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", on.envoy.plan.http_port)
    writer.write(text)
    try:
        return await asyncio.wait_for(reader.read(65536), 10)
    finally:
        writer.close()


# -- headers ---------------------------------------------------------------------------------------


async def test_headers_of_ours_and_of_envoys_are_not_believed_from_outside():
    forged = {
        "x_tritonfleet_tenant": "root",
        "x_tritonfleet_model": "vit",
        "X_TritonFleet_Absent": "bert",
        "x_envoy_upstream_rq_timeout_ms": "1",
        "x_envoy_attempt_count": "9",
        "x_envoy_retry_on": "5xx",
    }
    async with stage("bert", residency=BERT) as on:
        assert (await on.post("bert", **forged)).by == "gpu0"
        assert (await on.post("unknown", **forged)).by == "activator"
        await on.infer("bert", **{name.lower(): value for name, value in forged.items()})
        seen = [on.triton.requests[0].headers, on.activator.requests[0].headers]
        for headers in [*seen, on.triton.calls[0].metadata]:
            assert headers.get("x-tritonfleet-tenant") is None
            assert headers.get("x-tritonfleet-model") in (None, "bert")
            assert headers["x-envoy-attempt-count"] == "1"
            assert headers.get("x-envoy-retry-on") is None


async def test_binary_metadata_is_not_passed_on_and_the_rest_is():
    async with stage("bert", residency=BERT) as on:
        for model, backend in (("bert", on.triton), ("unknown", on.activator)):
            await on.call(infer_request(model), trace_bin=b"x", traceparent="00-1")
            assert "trace-bin" not in backend.calls[0].metadata
            assert backend.calls[0].metadata["traceparent"] == "00-1"


async def test_a_direct_answer_says_warm_and_the_activators_word_stands():
    async with stage("bert", residency=BERT) as on:
        assert (await on.post("bert")).headers["tritonfleet-residency"] == "warm"
        _, metadata = await on.call(infer_request("bert"))
        assert metadata["tritonfleet-residency"] == "warm"
        on.triton.http = error(404, "Request for unknown model: 'bert' is not found")
        on.activator.http = error(200, "", **{"tritonfleet-residency": "cold"})
        answer = await on.post("bert")
        assert answer.headers.getall("tritonfleet-residency") == ["cold"]


async def test_a_request_keeps_its_id_or_gets_one_and_the_client_is_told():
    async with stage("bert", residency=BERT) as on:
        assert (await on.post("bert", x_request_id="mine")).headers["x-request-id"] == "mine"
        assert on.triton.requests[0].headers["x-request-id"] == "mine"
        made = (await on.post("bert")).headers["x-request-id"]
        assert made == on.triton.requests[1].headers["x-request-id"]
        _, metadata = await on.call(infer_request("bert"), x_request_id="mine")
        assert metadata["x-request-id"] == "mine"


@pytest.mark.parametrize("residency", [BERT, {}], ids=["warm", "cold"])
async def test_nobody_names_the_software_that_answers(residency):
    async with stage("bert", residency=residency) as on:
        headers = (await on.post("bert")).headers
        said = " ".join(f"{name} {value}" for name, value in headers.items()).lower()
        assert not any(word in said for word in ("envoy", "aiohttp", "server"))


# -- sizes -----------------------------------------------------------------------------------------


async def test_a_body_that_is_too_large_is_refused_and_not_passed_on():
    async with stage("bert", residency=BERT, max_request_bytes=100_000) as on:
        assert (await on.post("bert", b"x" * 100_000)).status == 200
        answer = await on.post("bert", b"x" * 200_000)
        assert answer.status == 413
        assert answer.json()["error"].startswith("The request is larger than 100000 bytes")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await on.infer("", body=infer_request("bert", raw_input_contents=[b"x" * 200_000]))
        assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure.value.details().startswith("The request is larger than 100000 bytes")
        assert len(on.triton.requests) == 1
        assert on.triton.calls == on.activator.requests == on.activator.calls == []


async def test_a_slow_upload_is_not_seen_by_triton_before_it_is_complete():
    async with stage("bert", residency=BERT) as on:
        reader, writer = await asyncio.open_connection("127.0.0.1", on.envoy.plan.http_port)
        writer.write(
            b"POST /v2/models/bert/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc"
        )
        await writer.drain()
        await on.post("bert")
        assert await on.envoy.counter("cluster.http/bert.upstream_rq_total") == 1
        writer.write(b"def")
        await reader.readuntil(b"\r\n\r\n")
        assert on.triton.bodies == [b"{}", b"abcdef"]
        writer.close()


async def test_an_upload_that_is_given_up_reaches_nobody():
    async with stage("bert", residency=BERT) as on:
        _, writer = await asyncio.open_connection("127.0.0.1", on.envoy.plan.http_port)
        writer.write(
            b"POST /v2/models/bert/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc"
        )
        await writer.drain()
        writer.close()
        await on.post("bert")
        assert on.triton.bodies == [b"{}"]


async def test_a_stream_may_send_more_than_one_request_could():
    async with stage("bert", residency=BERT, max_request_bytes=10_000) as on:
        message = infer_request("bert", raw_input_contents=[b"x" * 5_000])
        call = on.channel.stream_stream(STREAM)(iter([message] * 10), timeout=20)
        assert len([answer async for answer in call]) == 10


async def test_a_stream_is_answered_while_it_goes_on():
    async with stage("bert", residency=BERT) as on:
        call = on.channel.stream_stream(STREAM)(timeout=20)
        for _ in range(3):
            await call.write(infer_request("bert"))
            assert await call.read()
        await call.done_writing()


# -- abuse -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\nhost: x\r\nbomb: " + b"b" * 100_000 + b"\r\n\r\n", b"431"),
        (b"GET /v2 HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /v2/models/a%2fb/infer HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
        (b"GET /v2/\x00 HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
        (b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", b"400"),
        (
            b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n"
            b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"400",
        ),
    ],
    ids=["nonsense", "a long header", "many headers", "a hidden slash", "nul", "lengths", "both"],
)
async def test_malformed_http_is_refused_and_nobody_is_disturbed(text, status):
    async with stage("bert", residency=BERT) as on:
        assert (await raw(on, text)).startswith(b"HTTP/1.1 " + status)
        assert (await on.post("bert")).by == "gpu0"
        assert on.activator.requests == []


async def test_a_name_of_any_kind_is_the_activators_to_refuse():
    names = ["x" * 300, "мир", "%00", "a b", "..bert", "-", "bert%2e"]
    async with stage("bert", residency=BERT) as on:
        for name in names:
            answer = await on.post(f"/v2/models/{name}/infer")
            assert answer.status in (200, 400)
        assert on.triton.requests == []


async def test_a_thousand_idle_connections_do_no_harm():
    async with stage("bert", residency=BERT) as on:
        port = on.envoy.plan.http_port
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(1000)]
        assert (await on.post("bert")).by == "gpu0"
        for _, writer in connections:
            writer.close()


# -- answers of Envoy's own ------------------------------------------------------------------------


async def test_without_the_activator_a_cold_request_is_told_so_and_a_warm_one_is_served():
    async with stage("bert", "vit", residency=BERT) as on:
        on.envoy.plan.activator_http.unlink()
        assert (await on.post("bert")).by == "gpu0"
        answer = await on.post("vit")
        assert answer.status == 503
        assert "nothing has been run" in answer.json()["error"]


async def test_a_request_waits_for_an_activator_that_comes_back():
    async with stage("bert", residency={}) as on:
        path = on.envoy.plan.activator_http
        away = path.with_suffix(".away")
        path.rename(away)
        task = asyncio.create_task(on.post("bert"))

        async def retried() -> bool:
            return await on.envoy.counter("cluster.activator/http.upstream_rq_retry") > 1

        await until(retried)
        away.rename(path)
        assert (await task).by == "activator"


# -- the access log --------------------------------------------------------------------------------


async def test_each_request_is_one_line_with_all_that_an_operator_asks_for():
    async with stage("bert", residency=BERT) as on:
        await on.post("/v2/models/bert/infer?secret=1", b"12345", x_request_id="a")
        [line] = await on.envoy.log_lines(1)
        assert line.pop("time").endswith("Z")
        assert line.pop("duration_ms") >= 0
        assert line.pop("bytes_out") > 0
        assert line == {
            "request_id": "a", "protocol": "HTTP/1.1", "method": "POST",
            "path": "/v2/models/bert/infer", "model": "bert", "tenant": None,
            "residency": "warm", "wait_ms": None, "fallback": None, "status": 200,
            "grpc_status": None, "flags": "-", "bytes_in": 5, "upstream": "http/bert",
            "attempts": 1,
        }  # fmt: skip


async def test_the_line_of_a_cold_request_says_how_long_it_waited_and_who_answered():
    said = {
        "tritonfleet-residency": "cold",
        "tritonfleet-wait-ms": "12.5",
        "tritonfleet-fallback": "tiny",
    }
    async with stage("bert", residency={}) as on:
        on.activator.http = error(200, "", **said)
        await on.post("bert")
        [line] = await on.envoy.log_lines(1)
        assert [line[name] for name in ("residency", "wait_ms", "fallback")] == [*said.values()]
        assert (line["model"], line["upstream"]) == ("bert", "activator/http")


async def test_only_what_is_notable_is_logged_where_that_is_wished():
    full = ModelPlan("full", LimitsSpec(max_concurrency=1, queue_limit=0))
    residency = {"on": {"bert": "gpu0", "full": "gpu0"}}
    async with stage("bert", full, residency=residency, only_notable=True) as on:
        on.activator.http = error(200, "", **{"tritonfleet-residency": "cold"})
        for _ in range(5):
            await on.post("bert")
            await on.infer("bert")
        on.triton.http = error(500, "broken")
        await on.post("bert")
        await on.post("cold")
        gate = on.triton.gate = asyncio.Event()
        task = asyncio.create_task(on.post("full"))
        await until(lambda: on.triton.running == 1)
        with pytest.raises(grpc.aio.AioRpcError):
            on.triton.grpc = refuse
            on.triton.gate = None
            await on.infer("bert")
        await on.post("full")
        on.triton.http = None
        gate.set()
        await task
        lines = await on.envoy.log_lines(4)
        assert sorted((line["status"], line["grpc_status"] or 0) for line in lines) == [
            (200, 0), (200, 3), (429, 0), (500, 0),
        ]  # fmt: skip


async def refuse(_, context):
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad")


async def test_no_credential_and_no_body_is_logged():
    async with stage("bert", residency=BERT) as on:
        headers = {"authorization": "Bearer s3cret", "x_api_key": "s3cret"}
        await on.post("/v2/models/bert/infer?key=s3cret", b"s3cret", **headers)
        lines = await on.envoy.log_lines(1)
        assert "s3cret" not in json.dumps(lines) + on.envoy.log


async def test_the_sockets_of_envoy_are_its_users_alone():
    fallback = ModelPlan("bert", has_fallback=True)
    async with stage(fallback, residency=BERT) as on:
        sockets = [path for path in on.envoy.plan.folder.iterdir() if path.is_socket()]
        ours = [path for path in sockets if not path.name.startswith("activator")]
        assert len(ours) == 3
        assert {stat.S_IMODE(path.stat().st_mode) for path in ours} == {0o600}
