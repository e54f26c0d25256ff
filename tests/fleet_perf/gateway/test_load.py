from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from dataclasses import replace

import numpy
from aiohttp import web
from aiohttp.test_utils import TestServer

from fleet_perf.gateway import load
from fleet_perf.gateway.load import WRONG_ANSWER, LoadOrder, choices, run
from fleet_perf.gateway.replies import read

MODELS = ("a", "b", "c", "d")
ORDER = LoadOrder(
    wire="http",
    address="",
    clients=2,
    models=MODELS,
    answers=tuple(numpy.float32(index).tobytes().hex() for index in range(len(MODELS))),
    row=bytes(16).hex(),
    pattern="round-robin",
    seed=1,
    until_s=0.0,
    output="",
)


def test_an_order_survives_its_way_to_another_process():
    assert LoadOrder.from_json(ORDER.as_json()) == ORDER


def test_round_robin_asks_each_model_in_turn():
    found = list(itertools.islice(choices(MODELS, "round-robin", random.Random(1)), 8))
    assert Counter(found) == dict.fromkeys(MODELS, 2)
    assert found[:4] == found[4:]


def test_zipf_asks_the_first_models_most():
    found = Counter(itertools.islice(choices(MODELS, "zipf", random.Random(1)), 2000))
    assert [name for name, _ in found.most_common()] == list(MODELS)
    assert 0.4 < found["a"] / 2000 < 0.56  # 12/25


def answering(output: bytes, status: int = 200) -> web.Application:
    async def infer(request: web.Request) -> web.Response:
        await request.read()
        body = b'{"outputs":[]}'
        headers = {"Inference-Header-Content-Length": str(len(body))}
        return web.Response(status=status, body=body + output, headers=headers)

    app = web.Application()
    app.router.add_post("/v2/models/{model}/infer", infer)
    return app


async def asked(app: web.Application, tmp_path, **changes):
    """What clients see that ask for a moment."""
    async with TestServer(app) as server:
        address, until_s = f"{server.host}:{server.port}", time.monotonic() + 0.2
        order = replace(ORDER, address=address, until_s=until_s, **changes)
        (await run(order)).save(tmp_path / "seen.npz")
    return read(tmp_path / "seen.npz")


async def test_the_answer_of_another_model_is_an_error(tmp_path):
    found = await asked(answering(bytes(4)), tmp_path)
    assert list(found.error_counts()) == [WRONG_ANSWER]
    assert found.good.any()


async def test_an_error_is_counted_by_its_status_and_text(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "PAUSE_AFTER_ERROR_S", 0.0)
    found = await asked(answering(b"", status=503), tmp_path)
    assert list(found.error_counts()) == ['503 {"outputs":[]}']


async def test_a_gateway_that_is_not_there_is_an_error(tmp_path):
    order = replace(ORDER, address="127.0.0.1:9", until_s=time.monotonic() + 0.1)
    (await run(order)).save(tmp_path / "seen.npz")
    found = read(tmp_path / "seen.npz")
    assert list(found.error_counts()) == ["ClientConnectorError"]
