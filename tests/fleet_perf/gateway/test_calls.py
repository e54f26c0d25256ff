from __future__ import annotations

import contextlib

import grpc
import grpc.aio
import numpy
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fleet_perf.gateway.calls import caller, same_answer
from fleet_perf.gateway.crowd import SMALL
from tritonfleet.gateway.envoy.plan import RESIDENCY_HEADER, WAIT_HEADER

REQUEST = SMALL.request()


class Inference(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers with the bytes it was sent; refuses a model named 'none'."""

    async def ModelInfer(self, request, context):
        if request.model_name == "none":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model\nand more")
        await context.send_initial_metadata([(RESIDENCY_HEADER, "cold"), (WAIT_HEADER, "1.5")])
        raw = [*request.raw_input_contents]
        return service_pb2.ModelInferResponse(raw_output_contents=raw)


@contextlib.asynccontextmanager
async def grpc_server():
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Inference(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def http_server():
    async def infer(request: web.Request) -> web.Response:
        if request.match_info["model"] == "none":
            return web.Response(status=404, text="no such model\nand more")
        head = int(request.headers["Inference-Header-Content-Length"])
        tensor = (await request.read())[head:]
        headers = {
            "Inference-Header-Content-Length": "2",
            RESIDENCY_HEADER: "cold",
            WAIT_HEADER: "1.5",
        }
        answer = web.Response(body=b"{}" + tensor, headers=headers)
        answer.enable_compression()  # as Triton does, where the client takes it
        return answer

    app = web.Application()
    app.router.add_post("/v2/models/{model}/infer", infer)
    async with TestServer(app) as server:
        yield f"{server.host}:{server.port}"


SERVERS = {"http": http_server, "grpc": grpc_server}


@pytest.mark.parametrize("wire", SERVERS)
async def test_an_answer_is_its_tensor_and_says_whether_it_was_cold(wire):
    async with SERVERS[wire]() as address:
        async with caller(wire, address, ["m"], REQUEST) as asking:
            outcome = await asking.ask("m")
    assert outcome.output == REQUEST[0].raw
    assert (outcome.cold, outcome.error, outcome.wait_ms) == (True, "", 1.5)


@pytest.mark.parametrize(
    ("wire", "error"), [("http", "404 no such model"), ("grpc", "NOT_FOUND no such model")]
)
async def test_a_refusal_is_an_outcome_of_one_line(wire, error):
    async with SERVERS[wire]() as address:
        async with caller(wire, address, ["none"], REQUEST) as asking:
            assert (await asking.ask("none")).error == error


@pytest.mark.parametrize(
    ("wire", "error"), [("http", "ClientConnectorError"), ("grpc", "UNAVAILABLE")]
)
async def test_nobody_there_is_an_outcome(wire, error):
    async with caller(wire, "127.0.0.1:9", ["m"], REQUEST) as asking:
        assert (await asking.ask("m")).error.startswith(error)


def test_the_last_bit_does_not_tell_models_apart_but_anything_else_does():
    one = numpy.array([0.1, -0.4, 3.0], "<f4")
    assert same_answer(one.tobytes(), numpy.nextafter(one, numpy.float32(9)).tobytes())
    assert not same_answer(one.tobytes(), (one * numpy.float32(1.01)).tobytes())
    assert not same_answer(one.tobytes(), one[:2].tobytes())
    assert not same_answer(one.tobytes(), b"")
