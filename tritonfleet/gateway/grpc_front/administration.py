"""Triton's own switches over gRPC: trace, logging and shared memory, on every server alike.

The tritonservers take such calls from nobody but us: they carry a secret. Who may make them is
decided here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc.aio
from tritonclient.grpc import service_pb2

from tritonfleet.controller.controller import Controller
from tritonfleet.errors import ServerError, ServerUnreachable
from tritonfleet.gateway.desk import Desk
from tritonfleet.gateway.grpc_front.call import Call
from tritonfleet.gateway.grpc_front.channels import Answer, Channels
from tritonfleet.gateway.grpc_front.messages import parse
from tritonfleet.gateway.shared_memory import Kind, Region, SharedMemory

log = logging.getLogger(__name__)
_METHODS: dict[Kind, str] = {"system": "SystemSharedMemory", "cuda": "CudaSharedMemory"}


class Administration:
    """Settings are read from one server and changed on all; regions are registered with all."""

    def __init__(
        self,
        controller: Controller,
        desk: Desk,
        channels: Channels,
        shared_memory: SharedMemory,
    ) -> None:
        self._controller, self._desk, self._channels = controller, desk, channels
        self._shared_memory = shared_memory

    # -- settings ------------------------------------------------------------------------------

    async def trace_setting(self, body: bytes, call: Call) -> bytes:
        """What is traced, of one model or of all; changed only by those who manage."""
        request = parse(service_pb2.TraceSettingRequest, body)
        if request.model_name:
            self._desk.check_model(call.tenant, request.model_name)
            server = self._controller.ledger.ready_on(request.model_name)
        else:
            server = None
        return await self._setting("TraceSetting", request, body, call, server)

    async def log_settings(self, body: bytes, call: Call) -> bytes:
        """What the tritonservers log; changed only by those who manage."""
        request = parse(service_pb2.LogSettingsRequest, body)
        return await self._setting("LogSettings", request, body, call, None)

    async def _setting(
        self, method: str, request: Any, body: bytes, call: Call, server: str | None
    ) -> bytes:
        if request.settings:
            self._desk.check_manage(call.tenant, f"change settings with {method}")
            return await self._on_all(_up(self._controller.servers()), method, body)
        one = server or _up(self._controller.servers())[0]
        return await self._on_all((one,), method, body)

    # -- shared memory -------------------------------------------------------------------------

    async def register_system(self, body: bytes, call: Call) -> bytes:
        """Lets requests name a region of the machine's memory."""
        request = parse(service_pb2.SystemSharedMemoryRegisterRequest, body)
        region = Region(
            "system", request.name, request.byte_size, key=request.key, offset=request.offset
        )
        return await self._register(region, body, call)

    async def register_cuda(self, body: bytes, call: Call) -> bytes:
        """Lets requests name a region of a GPU's memory."""
        request = parse(service_pb2.CudaSharedMemoryRegisterRequest, body)
        region = Region(
            "cuda",
            request.name,
            request.byte_size,
            raw_handle=request.raw_handle,
            device_id=request.device_id,
        )
        return await self._register(region, body, call)

    async def unregister_system(self, body: bytes, call: Call) -> bytes:
        """Forgets a region of the machine's memory, or all of them."""
        request = parse(service_pb2.SystemSharedMemoryUnregisterRequest, body)
        return await self._unregister("system", request.name, call)

    async def unregister_cuda(self, body: bytes, call: Call) -> bytes:
        """Forgets a region of a GPU's memory, or all of them."""
        request = parse(service_pb2.CudaSharedMemoryUnregisterRequest, body)
        return await self._unregister("cuda", request.name, call)

    async def system_status(self, body: bytes, call: Call) -> bytes:
        """The regions that are registered: every server knows the same."""
        return await self._on_all(self._sharing(call)[:1], "SystemSharedMemoryStatus", body)

    async def cuda_status(self, body: bytes, call: Call) -> bytes:
        """The regions of GPUs that are registered: every server knows the same."""
        return await self._on_all(self._sharing(call)[:1], "CudaSharedMemoryStatus", body)

    async def _register(self, region: Region, body: bytes, call: Call) -> bytes:
        """Registers a region with every server, or with none."""
        done: list[str] = []
        for server in self._sharing(call):
            try:
                await self._channels.administer(server, _METHODS[region.kind] + "Register", body)
            except (grpc.aio.AioRpcError, ServerError):
                await self._take_back(region, done)
                raise
            done.append(server)
        self._shared_memory.remember(region)
        return b""

    async def _take_back(self, region: Region, servers: list[str]) -> None:
        if servers:
            method = _METHODS[region.kind] + "Unregister"
            await self._on_all(tuple(servers), method, _unregistration(region.name))

    async def _unregister(self, kind: Kind, name: str, call: Call) -> bytes:
        method = _METHODS[kind] + "Unregister"
        answer = await self._on_all(self._sharing(call), method, _unregistration(name))
        self._shared_memory.forget(kind, name)
        return answer

    def _sharing(self, call: Call) -> tuple[str, ...]:
        return _up(self._shared_memory.servers(call.tenant))

    async def _on_all(self, servers: tuple[str, ...], method: str, body: bytes) -> bytes:
        """An answer, or the first error; every server is asked."""
        answers = await asyncio.gather(
            *(self._channels.administer(server, method, body) for server in servers),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return next(answer.body for answer in answers if isinstance(answer, Answer))


def _up(servers: tuple[str, ...]) -> tuple[str, ...]:
    if not servers:
        raise ServerUnreachable("any", "its address: none is up", sent=False)
    return servers


def _unregistration(name: str) -> bytes:
    # The same message for both kinds.
    return bytes(service_pb2.SystemSharedMemoryUnregisterRequest(name=name).SerializeToString())
