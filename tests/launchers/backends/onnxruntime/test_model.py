"""The backends inside a real tritonserver: what clients of the official one may rely on."""

from __future__ import annotations

import asyncio
import re

import aiohttp
import numpy
import pytest
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

from tests.launchers.backends.onnxruntime.asking import (
    BATCHING,
    NATIVE,
    PYTHON,
    counts,
    floats,
    statistics,
    still_doubles,
)
from tests.launchers.onnx_models import (
    biased,
    doubler,
    folded,
    identity,
    io,
    lookup,
    parameters,
    publish,
    publish_doubler,
    publish_with_external_data,
    slow,
    tensors,
    twice_weighted,
    two_outputs,
)

pytestmark = pytest.mark.triton


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


@PYTHON
async def test_bytes_that_are_no_text_fail_alone_and_clearly(echo):
    answers = await asyncio.gather(
        echo(b"one"), echo(b"\xff\xfe"), echo(b"two"), return_exceptions=True
    )
    assert answers[0] == [[b"one"]]
    assert answers[2] == [[b"two"]]
    assert answers[1].status() == "StatusCode.INVALID_ARGUMENT"
    assert "must be UTF-8 text" in answers[1].message()


@NATIVE
async def test_bytes_need_not_be_text(echo):
    answers = await asyncio.gather(echo(b"one"), echo(b"\xff\xfe", b"\0"), echo(b"two"))
    assert answers == [[[b"one"]], [[b"\xff\xfe", b"\0"]], [[b"two"]]]


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


async def test_one_batch_is_one_run_and_is_counted_so(client, repository):
    publish(repository, "double", doubler(), f"max_batch_size: 4 {io()} {BATCHING}")
    await client.load("double")
    await asyncio.gather(*(client.ask("double", {"x": floats([i, i])}) for i in range(4)))
    stats = await statistics(client, "double")
    while stats.inference_stats.success.count < 4:  # an answer may be there before it is counted
        stats = await statistics(client, "double")
    assert (stats.inference_count, stats.execution_count) == (4, 1)
    assert stats.inference_stats.success.count == 4
    (batch,) = stats.batch_stats
    assert (batch.batch_size, batch.compute_infer.count) == (4, 1)
    for duration in (stats.inference_stats.compute_infer, batch.compute_infer):
        assert duration.ns > 0


@NATIVE  # Triton's python backend counts every request as a success
async def test_a_failed_request_is_counted_as_one(client, repository):
    config = tensors("input", i=("INT64", [-1])) + tensors("output", y=("FP32", [-1, 2]))
    publish(repository, "lookup", lookup(), f"max_batch_size: 8 {config}")
    await client.load("lookup")
    for index in (1, 9):
        try:
            await client.ask("lookup", {"i": ("INT64", numpy.array([[index]]))})
        except InferenceServerException:
            continue
    stats = await statistics(client, "lookup")
    assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (1, 1)


async def test_an_input_may_be_left_out_where_the_model_has_a_value_for_it(client, repository):
    config = tensors("input", x=("FP32", [2])) + tensors("output", y=("FP32", [2]))
    config += 'input { name: "bias" data_type: TYPE_FP32 dims: [2] optional: true }'
    publish(repository, "biased", biased(), f"max_batch_size: 4 {config} {BATCHING}")
    await client.load("biased")
    x = floats([1, 2])
    plain, other, again = await asyncio.gather(
        client.ask("biased", {"x": x}),
        client.ask("biased", {"x": x, "bias": floats([100, 200])}),
        client.ask("biased", {"x": x}),
    )
    assert plain["y"].tolist() == again["y"].tolist() == [[11, 12]]
    assert other["y"].tolist() == [[101, 202]]


async def test_weights_may_lie_in_a_file_of_their_own(client, repository):
    config = tensors("input", i=("INT64", [-1])) + tensors("output", y=("FP32", [-1, 2]))
    publish_with_external_data(repository, "lookup", lookup(), f"max_batch_size: 8 {config}")
    assert (repository / "lookup" / "1" / "weights.bin").stat().st_size >= 32
    await client.load("lookup")
    answer = await client.ask("lookup", {"i": ("INT64", numpy.array([[3, 1]]))})
    assert answer["y"].tolist() == [[[6, 7], [2, 3]]]


@pytest.mark.parametrize(
    "settings",
    [
        parameters(intra_op_thread_count="2", inter_op_thread_count="2", execution_mode="1"),
        parameters(intra_op_thread_count="0"),
        parameters(enable_mem_arena="0", enable_mem_pattern="0"),
        *(f"optimization {{ graph {{ level: {level} }} }}" for level in (-1, 1, 2)),
    ],
)
async def test_the_way_of_running_never_changes_the_answer(client, repository, settings):
    publish(repository, "double", doubler(), f"max_batch_size: 8 {io()} {settings}")
    await client.load("double")
    answer = await client.ask("double", {"x": floats([1, 2], [3, 4])})
    assert answer["y"].tolist() == [[2, 4], [6, 8]]


@pytest.mark.parametrize("packing", ["eager", "lazy", "never"])
async def test_the_answer_stays_the_same_however_long_a_model_is_used(client, repository, packing):
    # Constants that were folded into others are gone when a session is made anew.
    megabytes, width = 4, 4 * 2**20 // 4 // 64
    row = ("FP32", [width])
    config = tensors("input", x=("FP32", [64])) + parameters(weight_packing=packing)
    publish(
        repository,
        "folded",
        folded(megabytes),
        f"max_batch_size: 8 {config} {tensors('output', y=row)}",
    )
    publish(
        repository,
        "twice",
        twice_weighted(megabytes),
        f"max_batch_size: 8 {config} {tensors('output', y=row, z=row)}",
    )
    for model in ("folded", "twice"):
        await client.load(model)
    x = {"x": ("FP32", numpy.ones((8, 64), numpy.float32))}
    first = await client.ask("twice", x)
    assert first["y"].any()
    numpy.testing.assert_array_equal(first["z"], 2 * first["y"])
    for _ in range(60):
        numpy.testing.assert_array_equal((await client.ask("folded", x))["y"], 192)
        again = await client.ask("twice", x)
        for output, values in first.items():
            numpy.testing.assert_allclose(again[output], values, rtol=1e-5)


@pytest.fixture
async def ask_slow(client, repository):
    """Gives back 5 after so many milliseconds' work or so."""
    config = tensors("input", x=("FP32", [1]), rounds=("INT64", [1]))
    publish(repository, "slow", slow(), config + tensors("output", y=("FP32", [1])))
    await client.load("slow")

    def ask(rounds: int):
        inputs = {"x": ("FP32", numpy.full(1, 5, numpy.float32))}
        inputs["rounds"] = ("INT64", numpy.array([rounds]))
        return asyncio.create_task(client.ask("slow", inputs))

    await ask(1)
    return ask


async def until_waiting(server, model, wanted: int) -> None:
    """Returns once so many requests wait for one that is being computed."""
    gauge = re.compile(rf'nv_inference_pending_request_count{{model="{model}".*}} (\d+)')
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"http://{server.endpoint.metrics}/metrics") as answer:
                found = gauge.search(await answer.text())
            if found and int(found[1]) == wanted:
                return


async def test_a_model_that_is_unloaded_while_it_computes_answers_all_the_same(
    server, client, ask_slow, repository
):
    publish_doubler(repository)
    await client.load("double")
    asked = [ask_slow(1000), ask_slow(1000)]  # whichever comes first, the other waits
    await until_waiting(server, "slow", 1)
    await client.unload("slow")
    assert await still_doubles(client)
    for answer in await asyncio.gather(*asked):
        numpy.testing.assert_allclose(answer["y"], [5], rtol=1e-3)
    assert await still_doubles(client)


@NATIVE
async def test_a_request_that_was_cancelled_while_it_waited_is_never_computed(
    server, client, ask_slow
):
    wanted = [ask_slow(2000), ask_slow(2000)]
    await until_waiting(server, "slow", 1)
    # Only now: Triton computes in the order in which requests arrive, not in which they were sent.
    unwanted = ask_slow(1)
    await until_waiting(server, "slow", 2)
    unwanted.cancel()
    await asyncio.gather(*wanted)
    assert await counts(client, "slow") == (3, 3)
