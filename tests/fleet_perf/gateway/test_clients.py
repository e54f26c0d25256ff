from __future__ import annotations

import json
import time

import numpy
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fleet_perf.fleet import RunningFleet
from fleet_perf.gateway import clients
from fleet_perf.gateway.clients import Group, answers, flat_out
from fleet_perf.gateway.crowd import SMALL
from fleet_perf.gateway.stand import Stand
from fleet_perf.peers.processes import ProcessTree
from tests.fleet_perf.gateway.test_calls import grpc_server
from tritonfleet.errors import ServerExited, Unstable

HEAD = json.dumps({"outputs": []}).encode()


def gateway(tensor_of):
    """Answers each model with a tensor of its own, or an error where that is None."""

    async def infer(request: web.Request) -> web.Response:
        tensor = tensor_of(request.match_info["model"])
        await request.read()
        if tensor is None:
            return web.json_response({"error": "no room"}, status=503)
        return web.Response(
            body=HEAD + tensor, headers={"Inference-Header-Content-Length": str(len(HEAD))}
        )

    app = web.Application()
    app.router.add_post("/v2/models/{model}/infer", infer)
    return TestServer(app)


def tensor_of(model: str) -> bytes:
    return numpy.full(4, SMALL.names.index(model), "<f4").tobytes()


def stand(server, tmp_path, grpc="127.0.0.1:9") -> Stand:
    fleet = RunningFleet("http://control", f"http://{server.host}:{server.port}")
    return Stand(fleet, grpc, "host", ProcessTree(-1), tmp_path / "log")


async def test_every_model_is_asked_for_its_answer(tmp_path):
    async with gateway(tensor_of) as server:
        found = await answers(stand(server, tmp_path), SMALL)
    assert found == {name: tensor_of(name) for name in SMALL.names}


async def test_models_that_answer_the_same_are_no_good(tmp_path):
    async with gateway(lambda _: b"same") as server:
        with pytest.raises(Unstable, match="answer the same"):
            await answers(stand(server, tmp_path), SMALL)


async def test_a_model_that_does_not_answer_is_told(tmp_path):
    async with gateway(lambda _: None) as server:
        with pytest.raises(Unstable, match="cannot be asked: 503"):
            await answers(stand(server, tmp_path), SMALL)


async def test_processes_of_clients_ask_over_both_protocols(tmp_path):
    raw = SMALL.request()[0].raw
    async with gateway(lambda _: raw) as server, grpc_server() as grpc:
        groups = [Group("g", SMALL.names[:2], clients=2)]
        wanted = dict.fromkeys(SMALL.names, raw)
        measured = stand(server, tmp_path, grpc)
        found = await flat_out(measured, SMALL, wanted, groups, clients.until(0.5))
    assert [one.wire for one in found] == ["http", "grpc"]
    for one in found:
        assert one.replies.error_counts() == {}
        assert one.replies.good.any()
    assert not found[0].replies.cold.any() and found[1].replies.cold.all()


async def test_a_process_that_fails_leaves_its_last_words(tmp_path):
    async with gateway(str.encode) as server:
        groups = [Group("no/such/folder", SMALL.names[:1], clients=1)]
        wanted = {SMALL.names[0]: b""}
        with pytest.raises(ServerExited, match="FileNotFoundError"):
            await flat_out(stand(server, tmp_path), SMALL, wanted, groups, time.monotonic())
