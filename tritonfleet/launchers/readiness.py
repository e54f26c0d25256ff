"""When a tritonserver that was just started has begun to serve, and ports on which it may."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable

import aiohttp

from tritonfleet.launchers.command import LOOPBACK, Ports
from tritonfleet.server.endpoint import Endpoint

_READY_POLL_S = 0.02
_ANSWER_TIMEOUT_S = 2.0
PORT_TAKEN = re.compile(r"Socket '([^']+):(\d+)' already in use")
"""How tritonserver says it, before it ends."""


class Ended(Exception):
    """The server ended before it was ready."""


def free_ports(address: str = LOOPBACK) -> Ports:
    """Three different ports that nobody listened on a moment ago."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(family)) for _ in range(3)]
        for free in sockets:
            free.bind((address, 0))
        http, grpc, metrics = (free.getsockname()[1] for free in sockets)
    return Ports(http, grpc, metrics)


async def until_ready(endpoint: Endpoint, instance: str, poll: Callable[[], int | None]) -> None:
    """Returns once the server answers everywhere; Ended when ``poll`` tells that it never will."""
    timeout = aiohttp.ClientTimeout(total=_ANSWER_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while not await _is_ready(session, endpoint, instance):
            if poll() is not None:
                raise Ended
            await asyncio.sleep(_READY_POLL_S)  # Triton has nothing one could wait for


async def _is_ready(session: aiohttp.ClientSession, endpoint: Endpoint, instance: str) -> bool:
    """Whether this very server answers everywhere; the metrics port is the last that it opens."""
    try:
        async with session.get(f"http://{endpoint.http}/v2/health/ready") as ready:
            healthy = ready.status == 200
        async with session.get(f"http://{endpoint.http}/v2") as metadata:
            # A stranger who got the port first would answer, too, perhaps even as a Triton.
            ours = instance in await metadata.text()
        async with session.get(f"http://{endpoint.metrics}/metrics") as metrics:
            return healthy and ours and metrics.status == 200
    except (aiohttp.ClientError, asyncio.TimeoutError, UnicodeDecodeError):
        return False
