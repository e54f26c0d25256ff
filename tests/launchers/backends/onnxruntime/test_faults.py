"""What is wrong with a model or a request is told in one sentence, and harms nobody else."""

from __future__ import annotations

import asyncio

import numpy
import pytest
from onnx import helper
from tritonclient.utils import InferenceServerException

from tests.launchers.backends.onnxruntime.asking import (
    NATIVE,
    failure,
    floats,
    refusal,
    still_doubles,
)
from tests.launchers.onnx_models import (
    FLOAT,
    claims_to_be_gigantic,
    doubler,
    expander,
    graph,
    io,
    lookup,
    parameters,
    publish,
    publish_doubler,
    publish_with_external_data,
    tensors,
)

pytestmark = pytest.mark.triton


def unknown_operator() -> bytes:
    node = helper.make_node("NoSuchOperator", ["x"], ["y"])
    row = (FLOAT, ["batch", "n"])
    return graph([node], {"x": row}, {"y": row})


def unknown_opset() -> bytes:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    row = (FLOAT, ["batch", "n"])
    return graph([node], {"x": row}, {"y": row}, opset=999)


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"this is no model",
        doubler()[:20],
        doubler()[:-1],
        doubler() + b"\xff" * 64,
        unknown_operator(),
        unknown_opset(),
    ],
    ids=["empty", "text", "head", "truncated", "appended", "operator", "opset"],
)
async def test_a_file_that_cannot_be_opened_is_told_and_harms_no_other_model(
    client, repository, file
):
    publish_doubler(repository)
    publish(repository, "bad", file, f"max_batch_size: 8 {io()}")
    await client.load("double")
    told = await refusal(client, "bad")
    assert f"ONNX Runtime cannot open {repository}/bad/1/model.onnx" in told
    assert await still_doubles(client)


async def test_a_constant_that_is_shorter_than_it_claims_is_told(client, repository):
    publish_doubler(repository)
    publish(repository, "vast", claims_to_be_gigantic(), f"max_batch_size: 8 {io(dims=[2**20])}")
    await client.load("double")
    assert "ONNX Runtime cannot open" in await refusal(client, "vast")
    assert await still_doubles(client)


async def test_a_missing_weights_file_is_told(client, repository):
    config = tensors("input", i=("INT64", [-1])) + tensors("output", y=("FP32", [-1, 2]))
    publish_with_external_data(repository, "torn", lookup(), f"max_batch_size: 8 {config}")
    (repository / "torn" / "1" / "weights.bin").unlink()
    assert "weights.bin" in await refusal(client, "torn")


async def test_a_missing_file_is_told(client, repository):
    publish(repository, "empty", doubler(), f"max_batch_size: 8 {io()}", file="other.onnx")
    assert "empty/1/model.onnx is missing" in await refusal(client, "empty")


async def test_a_contradiction_is_told(client, repository):
    publish(repository, "liar", doubler(), f"max_batch_size: 8 {io('INT64')}")
    assert "input 'x' is TYPE_FP32, not TYPE_INT64" in await refusal(client, "liar")


async def test_more_contradictions_than_a_status_can_hold_are_cut_short(client, repository):
    invented = {f"an_input_that_is_not_there_{i}": ("FP32", [-1]) for i in range(500)}
    publish(
        repository, "liar", doubler(), f"max_batch_size: 8 {io()}{tensors('input', **invented)}"
    )
    told = await refusal(client, "liar")
    assert "it has no input 'an_input_that_is_not_there_0' (it has x)" in told
    assert " ..." in told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            parameters(intra_op_thread_count="many"),
            "'intra_op_thread_count' is 'many' in config.pbtxt; it must be a whole number",
        ),
        (
            parameters(inter_op_thread_count="-1"),
            "'inter_op_thread_count' is '-1' in config.pbtxt; it must be a whole number",
        ),
        (
            parameters(execution_mode="7"),
            "'execution_mode' is '7' in config.pbtxt; it must be 0 or 1",
        ),
        (
            parameters(enable_mem_arena="maybe"),
            "'enable_mem_arena' is 'maybe' in config.pbtxt; it must be 0 or 1",
        ),
    ],
)
async def test_a_parameter_that_makes_no_sense_is_told(client, repository, settings, told):
    publish(repository, "odd", doubler(), f"max_batch_size: 8 {io()} {settings}")
    assert told in await refusal(client, "odd")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (io("INT64"), "input 'x' is TYPE_FP32, not TYPE_INT64"),
        (io(dims=[5]), "input 'x' has shape [-1, 4], not [-1, 5]"),
        (io(dims=[2, 2]), "output 'y' has shape [-1, 4], not [-1, 2, 2]"),
        (
            io(dims=[4]) + tensors("input", z=("FP32", [4])),
            "it has no input 'z' (it has x)",
        ),
        (
            io(dims=[4]) + tensors("output", z=("FP32", [4])),
            "it has no output 'z' (it has y)",
        ),
    ],
)
async def test_what_differs_from_the_model_is_told(client, repository, config, told):
    model = doubler(shape=["batch", 4])
    publish(repository, "liar", model, f"max_batch_size: 8 {config}")
    assert told in await refusal(client, "liar")


@NATIVE
@pytest.mark.parametrize(
    ("kind", "accelerator", "told"),
    [
        ("gpu", "tensorrt", "needs TensorrtExecutionProvider"),
        ("gpu", "cuda", "needs CUDAExecutionProvider"),
        ("cpu", "openvino", "needs OpenVINOExecutionProvider"),
        ("cpu", "abacus", "is not known; there are tensorrt, cuda and openvino"),
    ],
)
async def test_an_accelerator_that_is_not_here_is_told(client, repository, kind, accelerator, told):
    entry = f'{kind}_execution_accelerator: [{{ name: "{accelerator}" }}]'
    config = f"max_batch_size: 8 {io()} optimization {{ execution_accelerators {{ {entry} }} }}"
    publish(repository, "quick", doubler(), config)
    message = await refusal(client, "quick")
    assert f"execution accelerator '{accelerator}' in config.pbtxt {told}" in message


@pytest.fixture
async def expand(client, repository):
    """Asks for a tensor of some shape, of fours."""
    config = tensors("input", x=("FP32", [1]), shape=("INT64", [-1]))
    publish(repository, "expander", expander(), config + tensors("output", y=("FP32", [-1, -1])))
    await client.load("expander")

    async def ask(*shape: int):
        inputs = {"x": ("FP32", numpy.full(1, 4, numpy.float32))}
        inputs["shape"] = ("INT64", numpy.array(shape))
        return (await client.ask("expander", inputs))["y"]

    return ask


async def test_memory_that_cannot_be_had_fails_one_request(expand, client, repository):
    publish_doubler(repository)
    await client.load("double")
    for shape in ((2**20, 2**24), (2**31, 2**31)):
        error = await failure(expand(*shape))
        assert error.status() in ("StatusCode.INTERNAL", "StatusCode.INVALID_ARGUMENT")
        assert (await expand(2, 3)).tolist() == [[4] * 3] * 2
        assert await still_doubles(client)


async def test_memory_that_cannot_be_had_harms_no_request_beside_it(expand):
    answers = await asyncio.gather(
        *(expand(2, 2) if i % 2 else expand(2**20, 2**24) for i in range(8)),
        return_exceptions=True,
    )
    assert all(isinstance(answer, InferenceServerException) for answer in answers[::2])
    assert all(answer.tolist() == [[4, 4], [4, 4]] for answer in answers[1::2])


async def test_a_shape_that_the_model_cannot_take_fails_alone(client, repository):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = helper.make_tensor("w", FLOAT, [3, 1], [1, 2, 3])
    inputs, outputs = {"x": (FLOAT, ["batch", "n"])}, {"y": (FLOAT, ["batch", 1])}
    config = tensors("input", x=("FP32", [-1])) + tensors("output", y=("FP32", [1]))
    model = graph([node], inputs, outputs, [weight])
    publish(repository, "three", model, f"max_batch_size: 8 {config}")
    await client.load("three")
    error = await failure(client.ask("three", {"x": floats([1, 2])}))
    assert "MatMul" in error.message()
    answer = await client.ask("three", {"x": floats([1, 1, 1])})
    assert answer["y"].tolist() == [[6]]
