"""The gRPC front over a tritonserver whose every answer is in the test's hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.gateway.fleet import Fleet
from tritonfleet.gateway.desk import Desk, Rules
from tritonfleet.gateway.grpc_front import GrpcFront
from tritonfleet.gateway.shared_memory import SharedMemory
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.server.pbtxt import parse_config

PREFIX = "/inference.GRPCInferenceService/"
LIMIT = 2**20
TENSOR = '[{name: "x" data_type: TYPE_FP32 dims: [1]}]'


class Scripted(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A tritonserver's gRPC; ``answer`` says what a request is answered with, and how."""

    def __init__(self):
        self.seen: list[object] = []
        self.metadata: list[dict[str, str]] = []
        self.cancelled = asyncio.Event()
        self.ended = asyncio.Event()
        self.streams = self.open_streams = 0
        self.reply = lambda request: _echo(request)
        """Of one request; an exception is aborted with, an awaitable is waited for."""
        self.stream_reply = lambda request: [streamed(request)]
        """All answers to one message of a stream."""

    async def ModelInfer(self, request, context):
        self.seen.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            answer = self.reply(request)
            answer = await answer if asyncio.iscoroutine(answer) else answer
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if isinstance(answer, Aborted):
            await context.abort(answer.code, answer.text, answer.trailing)
        context.set_trailing_metadata((("from-triton", "yes"),))
        return answer

    async def ModelStreamInfer(self, requests, context):
        self.streams += 1
        self.open_streams += 1
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            async for request in requests:
                self.seen.append(request)
                answers = self.stream_reply(request)
                answers = await answers if asyncio.iscoroutine(answers) else answers
                if isinstance(answers, Aborted):
                    await context.abort(answers.code, answers.text)
                for answer in answers:
                    await context.write(answer)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.open_streams -= 1
        self.ended.set()

    async def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request, context):
        return service_pb2.ModelMetadataResponse(name=request.name, platform="from triton")

    async def ModelStatistics(self, request, context):
        names = [request.name] if request.name else ["bert", "secret"]
        stats = [service_pb2.ModelStatistics(name=name, inference_count=7) for name in names]
        return service_pb2.ModelStatisticsResponse(model_stats=stats)

    async def TraceSetting(self, request, context):
        self.seen.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return service_pb2.TraceSettingResponse()

    LogSettings = TraceSetting

    async def SystemSharedMemoryRegister(self, request, context):
        self.seen.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return service_pb2.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(self, request, context):
        self.seen.append(request)
        return service_pb2.SystemSharedMemoryUnregisterResponse()


class Aborted:
    """An error that a tritonserver answers with."""

    def __init__(self, code, text, trailing=()):
        self.code, self.text, self.trailing = code, text, trailing


@contextlib.asynccontextmanager
async def answering(servicer):
    """A gRPC server on a free port; gives its ``host:port``."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


class Leasing(Fleet):
    """Counts the leases that are out; a load waits for as long as its model is held back."""

    def __init__(self, **options):
        super().__init__(**options)
        self.out: Counter[str] = Counter()
        self.held: dict[str, asyncio.Event] = {}
        self.places: dict[str, str] = {}
        """Of the models that are not on 'gpu0'."""

    def hold(self, model):
        """From now on nobody gets the model until what is returned is set."""
        return self.held.setdefault(model, asyncio.Event())

    @contextlib.asynccontextmanager
    async def lease(self, model, timeout_s, **options):
        if model in self.held:
            self.did.append(("wait", model))
            await self.held[model].wait()
        async with super().lease(model, timeout_s, **options) as lease:
            self.out[model] += 1
            try:
                yield replace(lease, server=self.places.get(model, lease.server))
            finally:
                self.out[model] -= 1

    async def load(self, model, timeout_s=None):
        await super().load(model)


class Fronted:
    """A front, a client of it, and what stands behind it."""

    def __init__(self, front, controller, desk, channel, shared_memory):
        self.front, self.controller, self.desk, self.channel = front, controller, desk, channel
        self.shared_memory = shared_memory
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    async def raw(self, method, body, **options):
        """One call in bytes."""
        return await self.channel.unary_unary(PREFIX + method)(body, **options)

    def stream(self, **options):
        return self.stub.ModelStreamInfer(**options)


@contextlib.asynccontextmanager
async def fronting(
    tmp_path: Path, servicer, *, models=("bert", "vit"), configs=None, pid=1, rules=None, **fleet
):
    """A front on a Unix socket, with one server 'gpu0' behind it."""
    texts = configs or {}

    def config(model):
        return parse_config(model, f'name: "{model}" input {TENSOR} {texts.get(model, "")}')

    async with answering(servicer) as address:
        endpoint = Endpoint("127.0.0.1:1", address, pid=pid, admin_key="admin", admin_secret="hush")
        controller = Leasing(servers={"gpu0": endpoint}, **fleet)
        desk = Desk(controller, Rules(models=tuple(models), **(rules or {})))
        shared = SharedMemory(controller, desk)
        front = GrpcFront(
            controller,
            desk,
            shared,
            version="1.2.3",
            configs=config,
            versions=lambda _: (1, 2),
            max_request_bytes=LIMIT,
        )
        socket = tmp_path / "grpc.sock"
        await front.start(socket)
        unlimited = (("grpc.max_receive_message_length", -1),)
        async with grpc.aio.insecure_channel(f"unix:{socket}", options=unlimited) as channel:
            try:
                yield Fronted(front, controller, desk, channel, shared)
            finally:
                await front.stop(0)


def request(model="bert", **options):
    """A request with a tensor and a few parameters."""
    parameters = options.pop("parameters", {})
    made = service_pb2.ModelInferRequest(model_name=model, **options)
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(made.parameters[name], kind, value)
    return made


def _echo(request):
    return service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)


def streamed(request, *, text="", final=None, outputs=1):
    """An answer on a stream, as Triton writes it."""
    answer = service_pb2.ModelStreamInferResponse()
    if text:
        answer.error_message = text
    inner = answer.infer_response
    inner.id = request.id
    if not text:
        inner.model_name = request.model_name
        for _ in range(outputs):
            inner.outputs.add(name="y")
    if final is not None:
        inner.parameters["triton_final_response"].bool_param = final
    return answer
