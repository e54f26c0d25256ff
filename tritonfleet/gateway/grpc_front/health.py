"""The standard health service of gRPC, ``grpc.health.v1``, which probes of orchestrators speak.

Its two messages are a string and an enumeration, each in field 1: on the wire they are protobuf's
own wrappers of a string and of a number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from google.protobuf.wrappers_pb2 import StringValue, UInt32Value

from tritonfleet.controller.controller import Controller
from tritonfleet.errors import InvalidRequest
from tritonfleet.gateway.grpc_front.channels import SERVICE as TRITON
from tritonfleet.gateway.grpc_front.messages import parse

SERVICE = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
WATCH_S = 0.5
"""Between two looks on behalf of those who watch."""


class Health:
    """Serving means that there is a tritonserver to load models on."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._ending = asyncio.Event()

    async def check(self, body: bytes) -> int:
        """The state of a service; SERVICE_UNKNOWN for one that is not here."""
        if _service(body) not in ("", TRITON, SERVICE):
            return SERVICE_UNKNOWN
        return SERVING if self._controller.servers() and not self._ending.is_set() else NOT_SERVING

    async def watch(self, body: bytes, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Tells the state now and whenever it changes, until the gateway ends."""
        told = None
        while True:
            state = await self.check(body)
            if state != told:
                await write(status(state))
            if self._ending.is_set():
                return
            told = state
            await self._pause()

    def end(self) -> None:
        """From now on nothing is served, and nobody watches."""
        self._ending.set()

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._ending.wait(), WATCH_S)
        except asyncio.TimeoutError:
            return


def status(state: int) -> bytes:
    """A HealthCheckResponse."""
    return bytes(UInt32Value(value=state).SerializeToString())


def _service(body: bytes) -> str:
    try:
        return str(parse(StringValue, body).value)
    except InvalidRequest as error:
        raise InvalidRequest("HealthCheckRequest", error.cause) from error
