"""What config.pbtxt leaves out, the native backend reads from the model, if the server lets it."""

from __future__ import annotations

import pytest

from tests.launchers.backends.onnxruntime.asking import NATIVE, floats, refusal
from tests.launchers.onnx_models import doubler, identity, publish, tensors, two_outputs
from tritonfleet.launchers import command

pytestmark = [pytest.mark.triton, NATIVE]


@pytest.fixture
async def client(embedded, connect, backend, monkeypatch):
    control = command._model_control

    def completing(*arguments):
        return [flag for flag in control(*arguments) if "auto-complete" not in flag]

    monkeypatch.setattr(command, "_model_control", completing)
    return connect(await embedded(onnxruntime_backend=backend))


def told(tensors):
    return [(tensor.name, list(tensor.dims)) for tensor in tensors]


async def config_of(client, model):
    return (await client.get_model_config(model)).config


async def test_inputs_outputs_and_batching_come_from_the_model(client, repository):
    publish(repository, "both", two_outputs(), "")
    await client.load("both")
    config = await config_of(client, "both")
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    assert told(config.input) == [("a", [2]), ("b", [2])]
    assert told(config.output) == [("plus", [2]), ("minus", [2])]
    answer = await client.ask("both", {"a": floats([1, 2]), "b": floats([1, 1])})
    assert answer["plus"].tolist() == [[2, 3]]


async def test_a_model_without_a_free_first_dimension_is_not_batched(client, repository):
    publish(repository, "fixed", doubler(shape=[2, 3]), "")
    await client.load("fixed")
    config = await config_of(client, "fixed")
    assert (config.max_batch_size, told(config.input)) == (0, [("x", [2, 3])])
    answer = await client.ask("fixed", {"x": floats([1, 2, 3], [4, 5, 6])})
    assert answer["y"].tolist() == [[2, 4, 6], [8, 10, 12]]


async def test_what_is_written_stays(client, repository):
    publish(repository, "half", doubler(), f"max_batch_size: 2 {tensors('input', x=('FP32', [5]))}")
    await client.load("half")
    config = await config_of(client, "half")
    assert (config.max_batch_size, told(config.input)) == (2, [("x", [5])])
    assert told(config.output) == [("y", [-1])]


async def test_a_scalar_is_told_where_triton_cannot_have_one(client, repository):
    publish(repository, "scalar", identity(1, shape=[]), "")
    assert "scalar tensors are not supported" in await refusal(client, "scalar")


async def test_a_damaged_file_is_told(client, repository):
    publish(repository, "bad", doubler()[:30], "")
    assert "ONNX Runtime cannot open" in await refusal(client, "bad")
