"""What the sequence batcher adds to requests reaches the model, and its states come back."""

from __future__ import annotations

import numpy
import pytest
from onnx import TensorProto

from tests.launchers.backends.onnxruntime.asking import NATIVE, refusal
from tests.launchers.onnx_models import accumulator, controlled, publish, tensors

pytestmark = pytest.mark.triton

CONTROLS = {
    "START": TensorProto.INT32,
    "END": TensorProto.FLOAT,
    "READY": TensorProto.BOOL,
    "CORRID": TensorProto.UINT64,
}
CONTROL_CONFIG = """
control_input [
  { name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] },
  { name: "END" control [{ kind: CONTROL_SEQUENCE_END fp32_false_true: [0, 1] }] },
  { name: "READY" control [{ kind: CONTROL_SEQUENCE_READY bool_false_true: [false, true] }] },
  { name: "CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] }
]
"""
STATE_CONFIG = """
state [{
  input_name: "sum_before" output_name: "sum_after" data_type: TYPE_FP32 dims: [1]
  initial_state { name: "zero" data_type: TYPE_FP32 dims: [1] zero_data: true }
}]
"""


def sequence(*parts: str, idle_s: float = 60) -> str:
    idle = f"max_sequence_idle_microseconds: {round(idle_s * 1e6)}"
    return f"sequence_batching {{ {idle} {' '.join(parts)} }}"


def numbers(columns: int) -> str:
    return tensors("input", x=("FP32", [1])) + tensors("output", y=("FP32", [columns]))


@pytest.fixture
def follow(client):
    """Sends one number as a part of a sequence."""

    async def send(model, number, sequence_id, start=False, end=False):
        x = {"x": ("FP32", numpy.full((1, 1), number, numpy.float32))}
        answer = await client.ask(
            model, x, sequence_id=sequence_id, sequence_start=start, sequence_end=end
        )
        return answer["y"].flatten().tolist()

    return send


@pytest.mark.parametrize("strategy", ["direct {}", "oldest { max_candidate_sequences: 4 }"])
async def test_the_model_is_told_where_in_which_sequence_it_is(
    client, repository, follow, strategy
):
    config = f"max_batch_size: 4 {numbers(5)} {sequence(CONTROL_CONFIG, strategy)}"
    publish(repository, "told", controlled(CONTROLS), config)
    await client.load("told")
    assert await follow("told", 7, 42, start=True) == [7, 1, 0, 1, 42]
    assert await follow("told", 8, 42) == [8, 0, 0, 1, 42]
    assert await follow("told", 9, 43, start=True, end=True) == [9, 1, 1, 1, 43]
    assert await follow("told", 8, 42, end=True) == [8, 0, 1, 1, 42]


async def test_a_control_of_another_type_than_the_model_has_is_told(client, repository):
    wrong = CONTROL_CONFIG.replace("int32_false_true", "fp32_false_true")
    publish(
        repository,
        "liar",
        controlled(CONTROLS),
        f"max_batch_size: 4 {numbers(5)} {sequence(wrong)}",
    )
    assert "input 'START' is TYPE_INT32, not TYPE_FP32" in await refusal(client, "liar")


@NATIVE
async def test_a_state_is_kept_for_each_sequence(client, repository, follow):
    config = f"max_batch_size: 4 {numbers(1)} {sequence(STATE_CONFIG)}"
    publish(repository, "sum", accumulator(), config)
    await client.load("sum")
    assert await follow("sum", 1, 1, start=True) == [1]
    assert await follow("sum", 10, 2, start=True) == [10]
    assert await follow("sum", 2, 1) == [3]
    assert await follow("sum", 20, 2) == [30]
    assert await follow("sum", 3, 1, end=True) == [6]
    assert await follow("sum", 5, 1, start=True) == [5]


@NATIVE
async def test_a_state_needs_no_batches(client, repository, follow):
    rank_two = f"{numbers(1)} {sequence(STATE_CONFIG)}".replace("dims: [1]", "dims: [1, 1]")
    publish(repository, "sum", accumulator(), rank_two)
    await client.load("sum")
    assert await follow("sum", 1, 1, start=True) == [1]
    assert await follow("sum", 2, 1, end=True) == [3]
    assert await follow("sum", 5, 2, start=True) == [5]


@NATIVE
async def test_a_state_is_an_output_only_where_it_is_one(client, repository, follow):
    config = f"max_batch_size: 4 {numbers(1)} {sequence(STATE_CONFIG)}"
    publish(repository, "sum", accumulator(), config)
    await client.load("sum")
    x = {"x": ("FP32", numpy.ones((1, 1), numpy.float32))}
    answer = await client.ask("sum", x, sequence_id=1, sequence_start=True)
    assert set(answer) == {"y"}
