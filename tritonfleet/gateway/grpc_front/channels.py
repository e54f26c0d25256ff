"""Connections to the tritonservers, kept open, for bytes in and bytes out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from tritonfleet.controller.controller import Controller
from tritonfleet.errors import FleetError, ServerTimeout, ServerUnreachable
from tritonfleet.gateway.grpc_front.call import Metadata, passed_on
from tritonfleet.server.client import is_transport

SERVICE = "inference.GRPCInferenceService"
SHORT_CALL_S = 10.0
_CORE = "Internal error from Core"
"""What grpc.aio says where a write met a connection that had just ended."""
_NOT_SENT = "failed to connect"
_LINGER_S = 30.0
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Channels to one address would share a connection, and with it its flow control.
    ("grpc.use_local_subchannel_pool", 1),
    # A tritonserver that restarts is back in seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Triton ends connections that are pinged more often than each 300 s while it computes.
    ("grpc.keepalive_time_ms", 310_000),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tritonserver answered."""

    body: bytes
    trailing: Metadata


class Channels:
    """One connection to each server; a server that comes back elsewhere gets a new one."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._open: dict[str, tuple[str, grpc.aio.Channel]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ends every connection; calls in progress fail."""
        channels = [channel for _, channel in self._open.values()]
        self._open.clear()
        for task in self._closing:
            task.cancel()
        closing = (channel.close() for channel in channels)
        await asyncio.gather(*closing, *self._closing, return_exceptions=True)

    async def unary(
        self,
        server: str,
        method: str,
        body: bytes,
        *,
        timeout_s: float | None = SHORT_CALL_S,
        metadata: Metadata = (),
    ) -> Answer:
        """Triton's answer to one request.

        Raises ServerUnreachable, ServerTimeout, or grpc's own error where Triton answered one.
        """
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        ask = self._to(server).unary_unary(_path(method))
        call = ask(body, timeout=timeout_s, metadata=grpc.aio.Metadata(*metadata))
        try:
            answer = await call
            return Answer(answer, passed_on(await call.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            ours = self.translated(error, server, method, timeout_s)
            raise (ours or error) from error

    async def administer(self, server: str, method: str, body: bytes) -> Answer:
        """The answer of an API that tritonservers of ours keep closed to others."""
        headers = self._controller.endpoint(server).admin_grpc_headers
        return await self.unary(server, method, body, metadata=tuple(headers.items()))

    def stream(self, server: str, method: str, metadata: Metadata) -> Any:
        """A stream to a server."""
        return self._to(server).stream_stream(_path(method))(metadata=grpc.aio.Metadata(*metadata))

    def translated(
        self,
        error: grpc.aio.AioRpcError,
        server: str,
        operation: str,
        timeout_s: float | None = None,
    ) -> FleetError | None:
        """Our error for one of the connection; None for an answer of Triton."""
        code, reason = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServerTimeout(server, operation, timeout_s or 0.0)
        lost = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        if (lost and is_transport(reason)) or reason == _CORE:
            address, _ = self._open.get(server, ("its address: the gateway ends", None))
            return ServerUnreachable(server, address, sent=_NOT_SENT not in reason)
        return None

    def _to(self, server: str) -> grpc.aio.Channel:
        address = self._controller.endpoint(server).grpc
        known = self._open.get(server)
        if known is not None and known[0] == address:
            return known[1]
        if known is not None:
            self._close_soon(known[1])
        channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._open[server] = (address, channel)
        return channel

    def _close_soon(self, channel: grpc.aio.Channel) -> None:
        # What is under way on it fails by itself, with the reason: its server has gone.
        task = asyncio.ensure_future(channel.close(_LINGER_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _path(method: str) -> str:
    return f"/{SERVICE}/{method}"
