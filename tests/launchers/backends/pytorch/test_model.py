"""The backend inside a real tritonserver."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.launchers.backends.pytorch.files import PickyDoubler, SumAndDifference, publish
from tests.launchers.onnx_models import io, tensors

pytestmark = pytest.mark.triton
BATCHING = "dynamic_batching { max_queue_delay_microseconds: 300000 }"


@pytest.fixture
async def client(embedded, connect):
    return connect(await embedded())


def floats(*rows):
    return "FP32", np.array(rows, np.float32)


async def test_a_torchscript_model_is_served_and_batched(client, repository):
    config = tensors("input", first=("FP32", [2]), second=("FP32", [2]))
    config += tensors("output", total=("FP32", [2]), rest=("FP32", [2]))
    publish(repository, "both", SumAndDifference(), f"max_batch_size: 8 {config} {BATCHING}")
    await client.load("both")
    answers = await asyncio.gather(
        *(client.ask("both", {"second": floats([1, 2]), "first": floats([i, i])}) for i in range(4))
    )
    for i, answer in enumerate(answers):
        assert answer["total"].tolist() == [[i + 1, i + 2]]
        assert answer["rest"].tolist() == [[i - 1, i - 2]]


async def test_a_request_that_the_module_refuses_fails_alone_in_its_batch(client, repository):
    publish(repository, "picky", PickyDoubler(), f"max_batch_size: 8 {io()} {BATCHING}")
    await client.load("picky")
    answers = await asyncio.gather(
        *(client.ask("picky", {"x": floats([i, 1])}) for i in (1, -1, 2)), return_exceptions=True
    )
    assert answers[0]["y"].tolist() == [[2, 2]] and answers[2]["y"].tolist() == [[4, 2]]
    assert isinstance(answers[1], InferenceServerException)
    assert "negative" in answers[1].message()


async def test_a_damaged_file_is_the_reason_of_the_failed_load(client, repository):
    publish(repository, "broken", PickyDoubler(), f"max_batch_size: 8 {io()}")
    (repository / "broken/1/model.pt").write_bytes(b"no model")
    with pytest.raises(InferenceServerException, match="PyTorch cannot open"):
        await client.load("broken")
