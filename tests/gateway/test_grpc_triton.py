"""The gRPC front on a real tritonserver, seen through NVIDIA's own client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import textwrap

import grpc
import numpy
import pytest
import pytest_asyncio
from tritonclient.grpc import InferInput, aio, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, shared_memory

from tests.gateway.grpc_fronting import Leasing
from tests.tiny import write_adder
from tritonfleet.gateway.desk import Desk, Rules
from tritonfleet.gateway.grpc_front import GrpcFront
from tritonfleet.gateway.shared_memory import SharedMemory
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.embedded import EmbeddedLauncher
from tritonfleet.server.client import TritonClient
from tritonfleet.server.layout import model_versions
from tritonfleet.server.pbtxt import read_config

pytestmark = [pytest.mark.triton, pytest.mark.asyncio(loop_scope="module")]
MODELS = ("adder", "counter", "totals", "slow")
_MODEL = """\
import time
import numpy
import triton_python_backend_utils as pb_utils

def given(request):
    return pb_utils.get_input_tensor_by_name(request, "x").as_numpy()

def answer(value):
    return pb_utils.InferenceResponse([pb_utils.Tensor("y", numpy.array([value], numpy.int32))])

class TritonPythonModel:
    totals = {}

    def execute(self, requests):
        return [self.one(request) for request in requests]

"""
_COUNTER = """\
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            count = int(given(request)[0])
            if count < 0:
                error = pb_utils.InferenceResponse(error=pb_utils.TritonError("below zero"))
                sender.send(error, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                continue
            for number in range(count):
                if request.is_cancelled():
                    open("{marker}", "w").close()
                    break
                time.sleep(0.2 if count > 99 else 0)
                sender.send(answer(number))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
_TOTALS = """\
    def one(self, request):
        number = int(pb_utils.get_input_tensor_by_name(request, "id").as_numpy().flat[0])
        begins = bool(pb_utils.get_input_tensor_by_name(request, "start").as_numpy().flat[0])
        value = int(given(request).flat[0])
        self.totals[number] = value + (0 if begins else self.totals[number])
        return answer(self.totals[number])
"""
_SLOW = """\
    def one(self, request):
        time.sleep(float(given(request).flat[0]) / 1000)
        return answer(0)
"""
_SEQUENCE = """\
sequence_batching {
  max_sequence_idle_microseconds: 2000000
  control_input [
    { name: "start" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
    { name: "id" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] } ]
}
"""


def write_python(repository, name, code, config=""):
    """Publishes a python-backend model of one number in and one out."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(_MODEL + code)
    (repository / name / "config.pbtxt").write_text(
        textwrap.dedent(f"""\
        name: "{name}"
        backend: "python"
        input [ {{ name: "x" data_type: TYPE_INT32 dims: [ 1 ] }} ]
        output [ {{ name: "y" data_type: TYPE_INT32 dims: [ 1 ] }} ]
        instance_group [ {{ count: 1 kind: KIND_CPU }} ]
        """)
        + config
    )


class Loading(Leasing):
    """Loads a model into a real server before the first lease."""

    def __init__(self, endpoint):
        super().__init__(servers={"gpu0": endpoint})
        self.client = TritonClient("gpu0", endpoint)

    @contextlib.asynccontextmanager
    async def lease(self, model, timeout_s, **options):
        if model not in self.ready:
            await self.client.load(model, 60)
        async with super().lease(model, timeout_s, **options) as lease:
            yield lease

    async def drop(self, model):
        """Unloads a model behind everybody's back."""
        await self.client.unload(model)
        await self.client.until_unloaded(model)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    write_adder(folder, "adder")
    counter = _COUNTER.replace("{marker}", str(folder.parent / "cancelled"))
    write_python(folder, "counter", counter, "model_transaction_policy { decoupled: true }\n")
    write_python(folder, "totals", _TOTALS, _SEQUENCE)
    write_python(folder, "slow", _SLOW)
    return folder


class Front:
    """A front over a real server, a client of it, and the fleet behind it."""

    def __init__(self, client, fleet, socket, marker):
        self.client, self.fleet, self.socket, self.marker = client, fleet, socket, marker


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def front(repository, tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    server = await EmbeddedLauncher().start(LaunchOptions("gpu0", repository, state))
    fleet = Loading(server.endpoint)
    desk = Desk(fleet, Rules(models=MODELS))
    front = GrpcFront(
        fleet,
        desk,
        SharedMemory(fleet, desk),
        version="1",
        configs=lambda model: read_config(repository, model),
        versions=lambda model: model_versions(repository / model),
        max_request_bytes=2**24,
    )
    socket = state / "grpc.sock"
    await front.start(socket)
    client = aio.InferenceServerClient(f"unix:{socket}")
    yield Front(client, fleet, socket, repository.parent / "cancelled")
    await client.close()
    await front.stop(5)
    await fleet.client.close()
    await server.stop(0)


def tensor(values, dtype="INT32", name="x"):
    array = numpy.array(values, {"INT32": numpy.int32, "FP32": numpy.float32}[dtype])
    made = InferInput(name, list(array.shape), dtype)
    made.set_data_from_numpy(array)
    return made


async def until(condition):
    async def so():
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)

    await asyncio.wait_for(so(), 30)


def number(result):
    return int(result.as_numpy("y").flat[0])


async def ask(client, *requests):
    """All answers to so many requests on one stream, each a number or an error."""

    async def asking():
        for one in requests:
            yield one

    answers = client.stream_infer(asking())
    return [str(error) if error else number(result) async for result, error in answers]


def adding():
    return [tensor([[1, 2, 3, 4]], "FP32")]


def counting(count, **options):
    return {"model_name": "counter", "inputs": [tensor([count])], **options}


def step(value, sequence, **flags):
    """One message of a sequence that is summed up."""
    return {"model_name": "totals", "inputs": [tensor([value])], "sequence_id": sequence, **flags}


def sleeping(milliseconds, **options):
    return {"model_name": "slow", "inputs": [tensor([milliseconds])], **options}


async def test_a_compressed_request_to_a_cold_model(front):
    result = await front.client.infer(
        "adder", adding(), request_id="7", compression_algorithm="gzip"
    )
    assert result.as_numpy("y").tolist() == [[2, 3, 4, 5]]
    assert result.get_response().id == "7"


async def test_a_model_that_was_unloaded_behind_our_back_is_loaded_again(front):
    await front.client.infer("adder", adding())
    await front.fleet.drop("adder")
    result = await front.client.infer("adder", adding())
    assert result.as_numpy("y").tolist() == [[2, 3, 4, 5]]
    assert ("missing", "adder") in front.fleet.did
    assert await ask(front.client, sleeping(0)) == [0]
    await front.fleet.drop("slow")
    assert await ask(front.client, sleeping(0)) == [0]
    assert ("missing", "slow") in front.fleet.did


async def test_a_decoupled_model_and_its_errors(front):
    assert await ask(front.client, counting(0), counting(3)) == [0, 1, 2]
    told = await ask(front.client, counting(-1))
    assert len(told) == 1
    assert "below zero" in told[0]
    bad = {"model_name": "counter", "inputs": [tensor([[1, 2]], "FP32")]}
    told = await ask(front.client, bad, counting(3))
    assert "data-type" in told[0]
    assert told[1:] == [0, 1, 2]
    assert front.fleet.out["counter"] == 0


async def test_the_end_is_told_to_those_who_ask(front):
    made = counting(2)
    request = service_pb2.ModelInferRequest(
        model_name=made["model_name"], inputs=[made["inputs"][0]._get_tensor()],
        raw_input_contents=[made["inputs"][0]._get_content()],
    )  # fmt: skip
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    async with grpc.aio.insecure_channel(f"unix:{front.socket}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = [one.infer_response async for one in stub.ModelStreamInfer(iter([request]))]
    finals = [one.parameters["triton_final_response"].bool_param for one in answers]
    assert finals == [False, False, True]


async def test_the_lease_of_a_decoupled_request_ends_with_it_and_not_with_the_stream(front):
    more = asyncio.Event()

    async def asking():
        yield counting(1)
        await more.wait()
        yield counting(1)

    answers = aiter(front.client.stream_infer(asking()))
    await anext(answers)
    await until(lambda: front.fleet.out["counter"] == 0)
    await asyncio.wait_for(front.fleet.drop("counter"), 30)
    more.set()
    assert number((await anext(answers))[0]) == 0
    assert [one async for one in answers] == []


async def test_sequences_keep_their_state_on_one_stream(front):
    told = await ask(
        front.client,
        step(1, 11, sequence_start=True),
        step(100, 12, sequence_start=True),
        step(2, 11),
        step(200, 12, sequence_end=True),
        step(3, 11, sequence_end=True),
    )
    assert told == [1, 100, 3, 300, 6]
    assert front.fleet.out["totals"] == 0
    assert "START" in (await ask(front.client, step(1, 13)))[0]


async def test_answers_of_several_models_come_in_the_order_of_the_requests(front):
    async def asking():
        yield sleeping(300, request_id="slow")
        whole = {"sequence_start": True, "sequence_end": True}
        yield step(7, 20, request_id="other", **whole)
        yield sleeping(0, request_id="quick")

    order = [one.get_response().id async for one, _ in front.client.stream_infer(asking())]
    assert order == ["slow", "other", "quick"]


async def test_tritons_own_errors(front):
    with pytest.raises(InferenceServerException, match="unexpected shape") as caught:
        await front.client.infer("adder", [tensor([[1, 2]], "FP32")])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException, match="decoupled") as caught:
        await front.client.infer("counter", [tensor([1])])
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    with pytest.raises(InferenceServerException, match="version 9 is not found"):
        await front.client.infer("adder", adding(), model_version="9")


async def test_a_client_that_goes_cancels_what_triton_does_and_the_model_may_leave(front):
    async def asking():
        yield counting(1000)
        await asyncio.Event().wait()

    stream = front.client.stream_infer(asking())
    await anext(aiter(stream))
    stream.cancel()
    await until(front.marker.exists)
    await until(lambda: front.fleet.out["counter"] == 0)
    await asyncio.wait_for(front.fleet.drop("counter"), 30)


async def test_what_can_be_asked_of_models_in_memory(front):
    await front.client.infer("adder", adding())
    assert await front.client.is_model_ready("adder")
    metadata = await front.client.get_model_metadata("adder")
    assert (metadata.name, metadata.platform) == ("adder", "onnxruntime_onnx")
    assert (await front.client.get_model_config("adder")).config.max_batch_size == 8
    assert (await front.client.get_inference_statistics("adder")).model_stats[0].inference_count
    everything = await front.client.get_inference_statistics()
    assert "adder" in {one.name for one in everything.model_stats}
    index = await front.client.get_model_repository_index()
    assert [one.name for one in index.models] == list(MODELS)


async def test_what_is_said_of_a_cold_model_is_what_triton_says_of_it_when_it_is_warm(front):
    async def told():
        config = (await front.client.get_model_config("adder")).config
        metadata = await front.client.get_model_metadata("adder")
        return metadata, [config.input, config.output, config.backend, config.max_batch_size]

    await front.client.infer("adder", adding())
    warm = await told()
    await front.fleet.drop("adder")
    front.fleet.ready.discard("adder")
    assert await told() == warm


async def test_settings_reach_triton(front):
    await front.client.infer("adder", adding())
    assert "trace_rate" in (await front.client.get_trace_settings("adder")).settings
    await front.client.update_log_settings({"log_info": False})
    assert not (await front.client.get_log_settings()).settings["log_info"].bool_param


async def test_tensors_in_shared_memory(front):
    key = f"/tritonfleet_test_{os.getpid()}"
    region = shared_memory.create_shared_memory_region("in", key, 16)
    try:
        rows = numpy.array([[1, 2, 3, 4]], numpy.float32)
        shared_memory.set_shared_memory_region(region, [rows])
        await front.client.register_system_shared_memory("in", key, 16)
        made = InferInput("x", [1, 4], "FP32")
        made.set_shared_memory("in", 16)
        result = await front.client.infer("adder", [made])
        assert result.as_numpy("y").tolist() == [[2, 3, 4, 5]]
        assert "in" in (await front.client.get_system_shared_memory_status()).regions
        await front.client.unregister_system_shared_memory("in")
        assert not (await front.client.get_system_shared_memory_status()).regions
    finally:
        shared_memory.destroy_shared_memory_region(region)


async def test_a_message_that_is_broken_inside_leaves_the_rest_of_the_stream_alone(front):
    whole = service_pb2.ModelInferRequest(model_name="nobody").SerializeToString()
    broken = service_pb2.ModelInferRequest(model_name="adder").SerializeToString()
    async with grpc.aio.insecure_channel(f"unix:{front.socket}") as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
        for message in (broken + b"\x2a\x02\x0a\x09", whole):
            await stream.write(message)
        await stream.done_writing()
        answers = [service_pb2.ModelStreamInferResponse.FromString(one) async for one in stream]
        assert "cannot be read as ModelInferRequest" in answers[0].error_message
        assert "'nobody' is not in the fleet" in answers[1].error_message
