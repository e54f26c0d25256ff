"""What the native backend says that a model holds is what tritonserver grows and shrinks by."""

from __future__ import annotations

import asyncio

import numpy
import psutil
import pytest

from tests.launchers.backends.onnxruntime.asking import NATIVE, statistics
from tests.launchers.onnx_models import parameters, publish, publish_doubler, tensors, weighty
from tests.launchers.processes import eventually

pytestmark = [pytest.mark.triton, NATIVE]

MEGABYTES = 64
X = {"x": ("FP32", numpy.ones((1, 64), numpy.float32))}


def publish_heavy(repository, name="heavy", packing="never", count=1) -> None:
    config = tensors("input", x=("FP32", [64])) + tensors("output", y=("FP32", [1]))
    config += parameters(weight_packing=packing)
    publish(repository, name, weighty(MEGABYTES), f"max_batch_size: 4 {config}")
    path = repository / name / "config.pbtxt"
    path.write_text(path.read_text().replace("count: 1", f"count: {count}"))


@pytest.fixture
async def resident_bytes(server, client, repository):
    """What tritonserver has in memory, all that comes with a first model already in it."""
    publish_doubler(repository, "first")
    await client.load("first")
    await client.ask("first", {"x": ("FP32", numpy.ones((1, 1), numpy.float32))})
    await client.unload("first")
    assert await eventually(lambda: server.events.bytes_of("first") is None)
    process = psutil.Process(server.endpoint.pid)
    return lambda: process.memory_info().rss


def megabytes(count: int) -> float:
    return count / 2**20


@pytest.mark.parametrize("packing", ["never", "lazy", "eager"])
async def test_what_a_model_says_it_holds_is_what_the_server_grows_by(
    server, client, repository, resident_bytes, packing
):
    publish_heavy(repository, packing=packing)
    before = resident_bytes()
    await client.load("heavy")
    assert await eventually(lambda: server.events.bytes_of("heavy") is not None)
    told = server.events.bytes_of("heavy")
    assert told >= MEGABYTES * 2**20
    assert megabytes(told) == pytest.approx(megabytes(resident_bytes() - before), rel=0.1)
    (usage,) = (await statistics(client, "heavy")).memory_usage
    assert (usage.type, usage.byte_size) == ("CPU", told)
    # Long enough to be packed where that is wanted.
    for _ in range(40):
        await client.ask("heavy", X)
    assert await eventually(
        lambda: (
            megabytes(server.events.bytes_of("heavy"))
            == pytest.approx(megabytes(resident_bytes() - before), rel=0.1)
        )
    )
    await client.unload("heavy")
    assert await eventually(lambda: server.events.bytes_of("heavy") is None)
    assert await eventually(lambda: resident_bytes() - before < 0.1 * MEGABYTES * 2**20)


async def test_a_model_is_heard_of_when_it_loads_and_when_its_memory_is_free(
    server, client, repository
):
    publish_heavy(repository)
    heard = []
    server.events.subscribe(heard.append)
    await client.load("heavy")
    await client.ask("heavy", X)
    await client.unload("heavy")
    assert await eventually(lambda: heard and heard[-1].kind == "unloaded")
    assert heard[0].kind == "loaded"
    assert {(event.model, event.version) for event in heard} == {("heavy", 1)}
    assert heard[-1].bytes == 0


async def test_the_next_model_takes_the_pages_of_the_last(
    server, client, repository, resident_bytes
):
    for name in ("heavy", "heir"):
        publish_heavy(repository, name)
    heard = []
    server.events.subscribe(heard.append)
    before = resident_bytes()
    for name in ("heavy", "heir", "heavy", "heir"):
        await client.load(name)
        await client.ask(name, X)
        # Whoever loads takes them, or frees them first: two models were never there together.
        assert resident_bytes() - before < 1.2 * MEGABYTES * 2**20
        await client.unload(name)
        assert await eventually(lambda: heard and heard[-1].kind == "unloaded")
        heard.clear()
    assert await eventually(lambda: resident_bytes() - before < 0.1 * MEGABYTES * 2**20)


async def test_instances_share_the_weights_of_one_session(client, repository, resident_bytes):
    publish_heavy(repository, count=4)
    before = resident_bytes()
    await client.load("heavy")
    await asyncio.gather(*(client.ask("heavy", X) for _ in range(16)))
    assert resident_bytes() - before < 1.5 * MEGABYTES * 2**20
