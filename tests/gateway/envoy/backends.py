"""Small servers that play Triton and the activator, and say what reached them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web
from tritonclient.grpc import service_pb2

from tritonfleet.gateway.envoy.plan import GatewayPlan, ServerAddress

SERVICE = "/inference.GRPCInferenceService/"
INFER, STREAM = SERVICE + "ModelInfer", SERVICE + "ModelStreamInfer"


@dataclass
class Backend:
    """Answers both protocols with its own name, or as a test has it answer."""

    name: str
    requests: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    http: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    grpc: Callable[[Call, grpc.aio.ServicerContext], Awaitable[bytes]] | None = None
    running: int = 0
    most: int = 0
    gate: asyncio.Event | None = None
    """Holds requests until it is set."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """HTTP."""
        self.bodies.append(await request.read())
        self.requests.append(request)
        async with self._inside():
            if self.http:
                return await self.http(request)
            return web.json_response({"by": self.name, "path": request.path})

    async def call(self, method: str, message: bytes, context: Any) -> bytes:
        """A unary gRPC call."""
        call = Call(method, message, dict(context.invocation_metadata()))
        self.calls.append(call)
        async with self._inside():
            if self.grpc:
                return await self.grpc(call, context)
            return service_pb2.ModelInferResponse(model_name=self.name).SerializeToString()

    async def stream(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """A stream: every message is answered."""
        metadata = dict(context.invocation_metadata())
        async for message in messages:
            self.calls.append(Call(STREAM, message, metadata))
            inner = service_pb2.ModelInferResponse(model_name=self.name)
            answer = service_pb2.ModelStreamInferResponse(infer_response=inner)
            yield answer.SerializeToString()

    @contextlib.asynccontextmanager
    async def _inside(self) -> AsyncIterator[None]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.gate:
                await self.gate.wait()
            yield
        finally:
            self.running -= 1


@dataclass(frozen=True)
class Call:
    """A gRPC call as it arrived."""

    method: str
    message: bytes
    metadata: dict[str, Any]

    @property
    def request(self) -> Any:
        """The message, parsed."""
        return service_pb2.ModelInferRequest.FromString(self.message)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._backend.stream)

        async def call(message: bytes, context: Any) -> bytes:
            return await self._backend.call(method, message, context)

        return grpc.unary_unary_rpc_method_handler(call)


@contextlib.asynccontextmanager
async def triton(name: str = "gpu0") -> AsyncIterator[tuple[Backend, ServerAddress]]:
    """One that listens on two ports, as a tritonserver does."""
    backend = Backend(name)
    async with _serving(backend) as (runner, server):
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        http = runner.addresses[0][1]
        yield backend, ServerAddress(name, f"127.0.0.1:{http}", f"127.0.0.1:{port}")


@contextlib.asynccontextmanager
async def activator(plan: GatewayPlan) -> AsyncIterator[Backend]:
    """One that listens on the plan's sockets."""
    backend = Backend("activator")
    async with _serving(backend) as (runner, server):
        await web.UnixSite(runner, str(plan.activator_http)).start()
        server.add_insecure_port(f"unix:{Path(plan.activator_grpc)}")
        await server.start()
        yield backend


@contextlib.asynccontextmanager
async def _serving(backend: Backend) -> AsyncIterator[tuple[web.AppRunner, grpc.aio.Server]]:
    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", backend.answer)
    runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0.1)
    await runner.setup()
    options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((_Handlers(backend),))
    try:
        yield runner, server
    finally:
        if backend.gate:
            backend.gate.set()
        await server.stop(0.1)
        await runner.cleanup()


def infer_request(model: str, version: str = "", **fields: Any) -> bytes:
    """The bytes of a ``ModelInferRequest``."""
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version, **fields)
    return bytes(message.SerializeToString())
