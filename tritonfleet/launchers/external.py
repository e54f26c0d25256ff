"""A tritonserver that somebody else runs: only its address is known."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from tritonfleet.errors import LauncherUnavailable, ServerUnreachable
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.server.events import ModelEvents

_ANSWER_TIMEOUT_S = 5.0


class ExternalServer:
    """A server whose process is not ours: it is never seen to end and never stopped."""

    log_file: Path | None = None
    onnxruntime_backend: str | None = None
    events: ModelEvents | None = None

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self.name, self.endpoint = name, endpoint

    def poll(self) -> int | None:
        """None: whether it answers is asked over its endpoint."""
        return None

    async def wait(self) -> int:
        """Never returns."""
        forever: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await forever

    async def stop(self, grace_s: float) -> None:
        """Leaves the server alone."""

    def log_tail(self, lines: int = 20) -> str:
        """Nothing: its log is where its owner put it."""
        return ""


class ExternalLauncher:
    """Takes the address from the fleet file and asks it once whether it lives."""

    async def start(self, options: LaunchOptions) -> ExternalServer:
        """The server at the given address; ServerUnreachable when it is not live."""
        http, grpc = _addresses(options)
        if not await _is_live(http):
            raise ServerUnreachable(options.name, http)
        return ExternalServer(options.name, Endpoint(http=http, grpc=grpc))


def _addresses(options: LaunchOptions) -> tuple[str, str]:
    for key, address in (("http_url", options.http_url), ("grpc_url", options.grpc_url)):
        if not address or "://" in address or ":" not in address:
            raise LauncherUnavailable(
                "external",
                f"server '{options.name}' has {key} {address!r}",
                f"Write '{key}: host:port', without a scheme.",
            )
    return str(options.http_url), str(options.grpc_url)


async def _is_live(http: str) -> bool:
    timeout = aiohttp.ClientTimeout(total=_ANSWER_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(f"http://{http}/v2/health/live") as response:
                return response.status == 200
    except (aiohttp.ClientError, asyncio.TimeoutError):
        return False
