"""The python-based backend alone: each instance is a process, whose memory can be asked back."""

from __future__ import annotations

import numpy
import pytest

from tests.launchers.backends.onnxruntime.asking import PYTHON
from tests.launchers.onnx_models import heavy, publish, publish_doubler, tensors
from tests.launchers.processes import eventually
from tritonfleet.server.memory import model_memory_bytes, model_processes, release_model_memory

pytestmark = [pytest.mark.triton, PYTHON]


async def test_a_released_model_returns_its_memory_and_answers_when_asked_again(
    server, client, repository
):
    megabytes = 64
    model = heavy(megabytes)
    width = megabytes * 2**20 // 4 // 64
    config = tensors("input", x=("FP32", [64])) + tensors("output", y=("FP32", [width]))
    publish(repository, "heavy", model, f"max_batch_size: 1 {config}")
    pid = server.endpoint.pid
    await client.load("heavy")
    x = {"x": ("FP32", numpy.ones((1, 64), numpy.float32))}
    await client.ask("heavy", x)
    before = model_memory_bytes(pid, "heavy")
    release_model_memory(pid, "heavy")
    assert await eventually(
        lambda: model_memory_bytes(pid, "heavy") < before - megabytes * 2**20 * 0.9
    )
    answer = await client.ask("heavy", x)
    assert answer["y"].shape == (1, width)


async def test_the_memory_of_an_unloaded_model_can_be_had_before_its_process_ends(
    server, client, repository
):
    publish_doubler(repository)
    pid = server.endpoint.pid
    await client.load("double")
    await client.ask("double", {"x": ("FP32", numpy.ones((1, 1), numpy.float32))})
    assert len(model_processes(pid, "double")) == 1
    await client.unload("double")
    release_model_memory(pid, "double")
    assert await eventually(lambda: not model_processes(pid, "double"))
    assert model_memory_bytes(pid, "double") is None
    await client.load("double")
    assert len(model_processes(pid, "double")) == 1


async def test_several_instances_are_several_processes(server, client, repository):
    publish_doubler(repository, "one")
    publish_doubler(repository, "two")
    path = repository / "two" / "config.pbtxt"
    path.write_text(path.read_text().replace("count: 1", "count: 2"))
    pid = server.endpoint.pid
    for model in ("one", "two"):
        await client.load(model)
    assert len(model_processes(pid, "two")) == 2
    assert model_memory_bytes(pid, "two") > model_memory_bytes(pid, "one")
