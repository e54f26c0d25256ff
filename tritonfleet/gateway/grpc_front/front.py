"""The gRPC server behind Envoy: which method is answered by whom, and what an error becomes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

from tritonfleet.controller.controller import Controller
from tritonfleet.errors import FleetError
from tritonfleet.gateway.desk import Desk
from tritonfleet.gateway.grpc_front import health
from tritonfleet.gateway.grpc_front.administration import Administration
from tritonfleet.gateway.grpc_front.call import Call, Metadata, passed_on
from tritonfleet.gateway.grpc_front.channels import SERVICE, Channels
from tritonfleet.gateway.grpc_front.inference import Inference
from tritonfleet.gateway.grpc_front.inspection import Inspection
from tritonfleet.gateway.grpc_front.repository import Repository
from tritonfleet.gateway.grpc_front.streams import METHOD as STREAM_INFER
from tritonfleet.gateway.grpc_front.streams import Streams
from tritonfleet.gateway.problems import grpc_code, retry_after_s
from tritonfleet.gateway.repository import RepositoryExtension
from tritonfleet.gateway.shared_memory import SharedMemory

Unary = Callable[[bytes, Call], Awaitable[bytes]]
Method: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
RETRY_AFTER = "retry-after"
"""Seconds after which the same request may succeed, behind an answer that refuses it."""
_SOCKET_MODE = 0o600


class GrpcFront:
    """The Open Inference Protocol over gRPC, for every model of the fleet, loaded or not.

    ``configs`` gives a model's ``ModelConfig`` and ``versions`` its published versions.
    """

    def __init__(
        self,
        controller: Controller,
        desk: Desk,
        shared_memory: SharedMemory,
        *,
        version: str,
        configs: Callable[[str], Any],
        versions: Callable[[str], tuple[int, ...]],
        max_request_bytes: int,
    ) -> None:
        self._channels = Channels(controller)
        self._health = health.Health(controller)
        self._inference = Inference(controller, desk, self._channels)
        self._streams = Streams(controller, desk, self._channels, configs)
        self._inspection = Inspection(
            controller, desk, self._channels, version=version, configs=configs, versions=versions
        )
        extension = RepositoryExtension(controller, desk, versions)
        self._repository = Repository(controller, desk, extension)
        self._administration = Administration(controller, desk, self._channels, shared_memory)
        self._max_request_bytes = max_request_bytes
        self._server: grpc.aio.Server | None = None

    async def start(self, socket: Path) -> None:
        """Listens on a Unix socket, for this user only."""
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", self._max_request_bytes),
                ("grpc.max_send_message_length", -1),
            )
        )
        self._server.add_generic_rpc_handlers((_Service(self._methods()),))
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()
        _restrict(socket)

    async def stop(self, grace_s: float) -> None:
        """Takes no more calls; those under way get ``grace_s`` seconds."""
        self._health.end()
        if self._server is not None:
            await self._server.stop(grace_s)
        await self._streams.close()
        await self._channels.close()

    def _methods(self) -> dict[str, Method]:
        methods = {f"/{SERVICE}/{name}": _unary(handle) for name, handle in self._unary().items()}
        methods[f"/{SERVICE}/{STREAM_INFER}"] = _bidirectional(self._streams.relay)
        methods[f"/{health.SERVICE}/Check"] = grpc.stream_unary_rpc_method_handler(self._check)
        methods[f"/{health.SERVICE}/Watch"] = grpc.stream_stream_rpc_method_handler(self._watch)
        return methods

    def _unary(self) -> dict[str, Unary]:
        inspection, administration = self._inspection, self._administration
        return {
            "ModelInfer": self._inference.infer,
            "ServerLive": inspection.server_live,
            "ServerReady": inspection.server_ready,
            "ServerMetadata": inspection.server_metadata,
            "ModelReady": inspection.model_ready,
            "ModelMetadata": inspection.model_metadata,
            "ModelConfig": inspection.model_config,
            "ModelStatistics": inspection.model_statistics,
            "RepositoryIndex": self._repository.index,
            "RepositoryModelLoad": self._repository.load,
            "RepositoryModelUnload": self._repository.unload,
            "TraceSetting": administration.trace_setting,
            "LogSettings": administration.log_settings,
            "SystemSharedMemoryStatus": administration.system_status,
            "SystemSharedMemoryRegister": administration.register_system,
            "SystemSharedMemoryUnregister": administration.unregister_system,
            "CudaSharedMemoryStatus": administration.cuda_status,
            "CudaSharedMemoryRegister": administration.register_cuda,
            "CudaSharedMemoryUnregister": administration.unregister_cuda,
        }

    async def _check(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        body = await _message(requests, context)
        try:
            state = await self._health.check(body)
        except FleetError as error:
            await _refuse(context, error)
        if state == health.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health.status(state)

    async def _watch(self, requests: AsyncIterator[bytes], context: Any) -> None:
        body = await _message(requests, context)
        try:
            await self._health.watch(body, context.write)
        except FleetError as error:
            await _refuse(context, error)


def _restrict(socket: Path) -> None:
    socket.chmod(_SOCKET_MODE)


class _Service(grpc.GenericRpcHandler):
    """Finds the method of a call; grpc itself answers UNIMPLEMENTED for one that is not here."""

    def __init__(self, methods: dict[str, Method]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> Method | None:
        return self._methods.get(details.method)


def _unary(handle: Unary) -> Method:
    async def answer(requests: AsyncIterator[bytes], context: Any) -> bytes:
        body, call = await _message(requests, context), Call.of(context)
        try:
            reply = await handle(body, call)
        except (FleetError, grpc.aio.AioRpcError) as error:
            await _tell(context, call)
            await _refuse(context, error)
        await _tell(context, call)
        context.set_trailing_metadata(call.trailing)
        return reply

    # grpc leaves a call for ever without an answer that ends before its only message does, unless
    # it is asked for all that come.
    return grpc.stream_unary_rpc_method_handler(answer)


async def _message(requests: AsyncIterator[bytes], context: Any) -> bytes:
    async for body in requests:
        return body
    await context.abort(grpc.StatusCode.INTERNAL, "the call has ended without a complete message")
    raise AssertionError("abort raises")


def _bidirectional(
    relay: Callable[
        [AsyncIterator[bytes], Call, Callable[[bytes], Awaitable[None]]], Awaitable[None]
    ],
) -> Method:
    async def answer(requests: AsyncIterator[bytes], context: Any) -> None:
        await relay(requests, Call.of(context), context.write)

    return grpc.stream_stream_rpc_method_handler(answer)


async def _tell(context: Any, call: Call) -> None:
    if call.told:
        await context.send_initial_metadata(tuple(call.told.items()))


async def _refuse(context: Any, error: FleetError | grpc.aio.AioRpcError) -> NoReturn:
    """Ends a call with our error, or with Triton's as it came."""
    if isinstance(error, FleetError):
        seconds = retry_after_s(error)
        later: Metadata = () if seconds is None else ((RETRY_AFTER, str(seconds)),)
        await context.abort(grpc_code(error), str(error), later)
    else:
        trailing = passed_on(error.trailing_metadata())
        await context.abort(error.code(), error.details() or "", trailing)
    raise AssertionError("abort raises")
