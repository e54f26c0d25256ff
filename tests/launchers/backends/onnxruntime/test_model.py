"""The backend inside a real tritonserver: what clients of the official one may rely on."""

from __future__ import annotations

import asyncio

import numpy
import pytest
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

from tests.launchers.onnx_models import (
    doubler,
    heavy,
    identity,
    lookup,
    publish,
    publish_doubler,
    tensors,
    two_outputs,
)
from tests.launchers.processes import eventually
from tritonfleet.server.memory import (
    model_memory_bytes,
    model_processes,
    release_model_memory,
)

pytestmark = pytest.mark.triton

# Long enough that concurrent requests meet in one batch on any machine.
BATCHING = "dynamic_batching { max_queue_delay_microseconds: 300000 }"


@pytest.fixture
async def client(embedded, connect):
    return connect(await embedded())


def io(dtype="FP32", dims=(-1,)) -> str:
    return tensors("input", x=(dtype, list(dims))) + tensors("output", y=(dtype, list(dims)))


async def counts(client, model) -> tuple[int, int]:
    statistics = await client.get_inference_statistics(model)
    (stats,) = statistics.model_stats
    return stats.inference_count, stats.execution_count


async def test_concurrent_requests_are_computed_together_and_answered_apart(client, repository):
    publish(repository, "double", doubler(), f"max_batch_size: 32 {io()} {BATCHING}")
    await client.load("double")
    requests = [numpy.full((1 + i % 3, 2), i, numpy.float32) for i in range(12)]
    answers = await asyncio.gather(
        *(client.ask("double", {"x": ("FP32", request)}) for request in requests)
    )
    for request, answer in zip(requests, answers, strict=True):
        numpy.testing.assert_array_equal(answer["y"], 2 * request)
    inferences, executions = await counts(client, "double")
    assert inferences == sum(len(request) for request in requests)
    assert executions < len(requests)


async def test_shapes_are_never_mixed_up(client, repository):
    publish(repository, "double", doubler(), f"max_batch_size: 32 {io()} {BATCHING}")
    await client.load("double")
    requests = [numpy.full((1, 1 + i % 4), i, numpy.float32) for i in range(16)]
    answers = await asyncio.gather(
        *(client.ask("double", {"x": ("FP32", request)}) for request in requests)
    )
    for request, answer in zip(requests, answers, strict=True):
        numpy.testing.assert_array_equal(answer["y"], 2 * request)


async def test_a_wrong_request_fails_alone_in_its_batch(client, repository):
    config = tensors("input", i=("INT64", [-1])) + tensors("output", y=("FP32", [-1, 2]))
    publish(repository, "lookup", lookup(), f"max_batch_size: 32 {config} {BATCHING}")
    await client.load("lookup")
    indices = [0, 1, 9, 2, 3]
    answers = await asyncio.gather(
        *(client.ask("lookup", {"i": ("INT64", numpy.array([[i]]))}) for i in indices),
        return_exceptions=True,
    )
    wrong = answers.pop(2)
    assert isinstance(wrong, InferenceServerException)
    assert wrong.status() == "StatusCode.INVALID_ARGUMENT"
    assert "idx=9 must be within the inclusive range [-4,3]" in wrong.message()
    assert "/" not in wrong.message()
    assert [answer["y"][0, 0, 0] for answer in answers] == [0, 2, 4, 6]


async def test_a_model_without_batches_takes_each_request_as_it_is(client, repository):
    publish(repository, "plain", doubler(shape=["n"]), f"max_batch_size: 0 {io()}")
    await client.load("plain")
    answers = await asyncio.gather(
        *(
            client.ask("plain", {"x": ("FP32", numpy.ones(size, numpy.float32))})
            for size in (1, 2, 3)
        )
    )
    assert [answer["y"].tolist() for answer in answers] == [[2], [2, 2], [2, 2, 2]]


@pytest.mark.parametrize(
    ("dtype", "element", "array"),
    [
        ("BOOL", TensorProto.BOOL, numpy.array([[True, False]])),
        *(
            (name, getattr(TensorProto, name), numpy.array([[0, 120]], name.lower()))
            for name in ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
        ),
        ("FP16", TensorProto.FLOAT16, numpy.array([[0.5, -2]], numpy.float16)),
        ("FP32", TensorProto.FLOAT, numpy.array([[0.5, -2]], numpy.float32)),
        ("FP64", TensorProto.DOUBLE, numpy.array([[0.5, -2]], numpy.float64)),
    ],
)
async def test_every_number_comes_back_as_it_went(client, repository, dtype, element, array):
    publish(repository, "same", identity(element), f"max_batch_size: 8 {io(dtype)}")
    await client.load("same")
    answer = await client.ask("same", {"x": (dtype, array)})
    assert answer["y"].dtype == array.dtype
    numpy.testing.assert_array_equal(answer["y"], array)


@pytest.fixture
async def echo(client, repository):
    """Sends text through a model of TYPE_STRING."""
    config = f"max_batch_size: 32 {io('STRING')} {BATCHING}"
    publish(repository, "echo", identity(TensorProto.STRING), config)
    await client.load("echo")

    async def send(*texts: bytes):
        array = numpy.array([texts], dtype=numpy.object_).reshape(1, len(texts))
        return (await client.ask("echo", {"x": ("BYTES", array)}))["y"].tolist()

    return send


async def test_text_goes_in_and_out(echo):
    texts = [b"plain", "grüße 世界".encode(), b"", b"nul \0 inside"]
    assert await echo(*texts) == [texts]


async def test_bytes_that_are_no_text_fail_alone_and_clearly(echo):
    answers = await asyncio.gather(
        echo(b"one"), echo(b"\xff\xfe"), echo(b"two"), return_exceptions=True
    )
    assert answers[0] == [[b"one"]]
    assert answers[2] == [[b"two"]]
    assert answers[1].status() == "StatusCode.INVALID_ARGUMENT"
    assert "must be UTF-8 text" in answers[1].message()


async def test_only_the_outputs_asked_for_come_back(client, repository):
    config = tensors("input", a=("FP32", [2]), b=("FP32", [2]))
    config += tensors("output", plus=("FP32", [2]), minus=("FP32", [2]))
    publish(repository, "both", two_outputs(), f"max_batch_size: 8 {config} {BATCHING}")
    await client.load("both")
    a, b = numpy.array([[3, 3]], numpy.float32), numpy.array([[1, 2]], numpy.float32)
    inputs = {"a": ("FP32", a), "b": ("FP32", b)}
    plus, minus, both = await asyncio.gather(
        client.ask("both", inputs, ["plus"]),
        client.ask("both", inputs, ["minus"]),
        client.ask("both", inputs),
    )
    assert {name: array.tolist() for name, array in plus.items()} == {"plus": [[4, 5]]}
    assert {name: array.tolist() for name, array in minus.items()} == {"minus": [[2, 1]]}
    assert set(both) == {"plus", "minus"}


async def test_another_file_name_is_honoured(client, repository):
    config = f'max_batch_size: 8 default_model_filename: "int8.onnx" {io()}'
    publish(repository, "named", doubler(), config, file="int8.onnx")
    await client.load("named")
    answer = await client.ask("named", {"x": ("FP32", numpy.ones((1, 1), numpy.float32))})
    assert answer["y"].tolist() == [[2]]


async def refusal(client, model) -> str:
    with pytest.raises(InferenceServerException) as caught:
        await client.load(model)
    return caught.value.message()


async def test_a_damaged_file_is_told_and_harms_no_other_model(client, repository):
    publish_doubler(repository, "good")
    publish(repository, "bad", doubler()[:20], f"max_batch_size: 8 {io()}")
    await client.load("good")
    told = await refusal(client, "bad")
    assert f"ONNX Runtime cannot open {repository}/bad/1/model.onnx" in told
    answer = await client.ask("good", {"x": ("FP32", numpy.ones((1, 1), numpy.float32))})
    assert answer["y"].tolist() == [[2]]


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


async def test_a_parameter_that_makes_no_sense_is_told(client, repository):
    parameter = 'parameters { key: "execution_mode" value { string_value: "7" } }'
    publish(repository, "odd", doubler(), f"max_batch_size: 8 {io()} {parameter}")
    assert "'execution_mode' is '7' in config.pbtxt" in await refusal(client, "odd")


async def test_a_released_model_returns_its_memory_and_answers_when_asked_again(
    embedded, connect, repository
):
    megabytes = 64
    model = heavy(megabytes)
    width = megabytes * 2**20 // 4 // 64
    config = tensors("input", x=("FP32", [64])) + tensors("output", y=("FP32", [width]))
    publish(repository, "heavy", model, f"max_batch_size: 1 {config}")
    server = await embedded()
    client, pid = connect(server), server.endpoint.pid
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
    embedded, connect, repository
):
    publish_doubler(repository)
    server = await embedded()
    client, pid = connect(server), server.endpoint.pid
    await client.load("double")
    await client.ask("double", {"x": ("FP32", numpy.ones((1, 1), numpy.float32))})
    assert len(model_processes(pid, "double")) == 1
    await client.unload("double")
    release_model_memory(pid, "double")
    assert await eventually(lambda: not model_processes(pid, "double"))
    assert model_memory_bytes(pid, "double") is None
    await client.load("double")
    assert len(model_processes(pid, "double")) == 1


async def test_several_instances_are_several_processes(embedded, connect, repository):
    publish_doubler(repository, "one")
    publish_doubler(repository, "two")
    path = repository / "two" / "config.pbtxt"
    path.write_text(path.read_text().replace("count: 1", "count: 2"))
    server = await embedded()
    client, pid = connect(server), server.endpoint.pid
    for model in ("one", "two"):
        await client.load(model)
    assert len(model_processes(pid, "two")) == 2
    assert model_memory_bytes(pid, "two") > model_memory_bytes(pid, "one")


@pytest.mark.parametrize(
    ("dtype", "element", "empty"),
    [
        ("FP32", TensorProto.FLOAT, numpy.empty((1, 0), numpy.float32)),
        ("STRING", TensorProto.STRING, numpy.empty((1, 0), numpy.object_)),
    ],
)
async def test_a_tensor_without_elements_is_no_special_case(
    client, repository, dtype, element, empty
):
    publish(repository, "same", identity(element), f"max_batch_size: 8 {io(dtype)}")
    await client.load("same")
    answer = await client.ask("same", {"x": (dtype.replace("STRING", "BYTES"), empty)})
    assert answer["y"].shape == (1, 0)
