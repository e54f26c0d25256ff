"""A tritonserver that somebody else runs: only its address is known, and perhaps a secret.

It may still be starting when it is asked for, and it may be restarted at any time: its owner tells
nobody, so it is watched from outside. A name in its address is looked up anew at each start, for
a restarted container is often somewhere else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from pathlib import Path
from typing import Any

import aiohttp

from tritonfleet.errors import (
    FleetError,
    LauncherUnavailable,
    ServerTimeout,
    ServerUnreachable,
    UnloadFailed,
)
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.command import ADMIN_KEY
from tritonfleet.server.client import InferenceRefused, TritonClient
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.server.events import ModelEvents
from tritonfleet.server.states import ReadyState

log = logging.getLogger(__name__)
LOST = 1
"""In place of the exit status, which its owner alone knows."""
_ANSWER_TIMEOUT_S = 5.0
_SILENCE_S = 10.0
"""An open connection that says nothing for so long leads nowhere any more."""
_POLL_S = 0.5
_LOOK_S = 2.0
_SAID_AFTER_S = 5.0
_GONE_AFTER_S = 2.0
"""A load that found nobody is held against its model unless we are quicker."""
_LAST_PORT = 65535
_NO_MODEL = "tritonfleet-no-such-model"
_PRESENT = (ReadyState.READY, ReadyState.LOADING)


class ExternalServer:
    """A server whose process is not ours: its loss is noticed, and it is never stopped."""

    log_file: Path | None = None
    onnxruntime_backend: str | None = None
    events: ModelEvents | None = None

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self.name, self.endpoint = name, endpoint

    def poll(self) -> int | None:
        """None: whether it answers is asked over its endpoint."""
        return None

    async def wait(self) -> int:
        """Returns once it has not answered for some seconds, or was restarted and is empty."""
        client = TritonClient(self.name, self.endpoint)
        try:
            await _Watch(self.endpoint.http, client).until_lost()
        finally:
            await client.close()
        return LOST

    async def stop(self, grace_s: float) -> None:
        """Leaves the server alone."""

    def log_tail(self, lines: int = 20) -> str:
        """Nothing: its log is where its owner put it."""
        return ""


class ExternalLauncher:
    """Takes the address from the fleet file, and waits until a server answers there."""

    def __init__(self, start_timeout_s: float = 60.0) -> None:
        self._start_timeout_s = start_timeout_s

    async def start(self, options: LaunchOptions) -> ExternalServer:
        """The server at the given address.

        Raises ServerUnreachable when it is not live in time, and LauncherUnavailable when its
        address cannot be one, or when it would not let us load models.
        """
        _check_addresses(options)
        endpoint = await self._until_live(options)
        await _check_management(options, endpoint)
        return ExternalServer(options.name, endpoint)

    async def _until_live(self, options: LaunchOptions) -> Endpoint:
        loop = asyncio.get_running_loop()
        started, said = loop.time(), False
        while True:
            endpoint = await _found(options)
            if endpoint is not None and await _is_live(endpoint.http):
                return endpoint
            waited_s = loop.time() - started
            if waited_s >= self._start_timeout_s:
                raise ServerUnreachable(options.name, str(options.http_url))
            if waited_s >= _SAID_AFTER_S and not said:
                log.warning("waiting for server=%s at %s", options.name, options.http_url)
                said = True
            await asyncio.sleep(_POLL_S)


# -- addresses -------------------------------------------------------------------------------


def _check_addresses(options: LaunchOptions) -> None:
    _check_address(options.name, "http_url", options.http_url)
    _check_address(options.name, "grpc_url", options.grpc_url)
    if options.metrics_url is not None:
        _check_address(options.name, "metrics_url", options.metrics_url)


def _check_address(server: str, key: str, address: str | None) -> None:
    host, _, port = (address or "").rpartition(":")
    if "/" in host or not host or not port.isdigit() or int(port) > _LAST_PORT:
        raise LauncherUnavailable(
            "external",
            f"server '{server}' has {key} {address!r}",
            f"Write '{key}: host:port', without a scheme.",
        )


async def _found(options: LaunchOptions) -> Endpoint | None:
    """Where the server is just now; None when one of its names leads nowhere."""
    urls = (options.http_url, options.grpc_url, options.metrics_url)
    try:
        http, grpc, metrics = [await _resolved(url) if url else None for url in urls]
    except OSError:
        return None
    return Endpoint(
        http=str(http),
        grpc=str(grpc),
        metrics=metrics,
        admin_key=ADMIN_KEY if options.admin_secret else None,
        admin_secret=options.admin_secret,
    )


async def _resolved(address: str) -> str:
    """The address with its name looked up: Envoy is told numbers, and looks up none."""
    host, _, port = address.rpartition(":")
    if _is_number(host.strip("[]")):
        return address
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    # A server in a container often listens on IPv4 alone, whatever else its name leads to.
    _, _, _, _, (number, *_) = min(found, key=lambda each: each[0] != socket.AF_INET)
    return f"[{number}]:{port}" if ":" in str(number) else f"{number}:{port}"


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# -- what it lets us do ----------------------------------------------------------------------


async def _check_management(options: LaunchOptions, endpoint: Endpoint) -> None:
    """Tells now what every load would fail with."""
    client = TritonClient(options.name, endpoint)
    try:
        await client.index()
        # Where models come and go in another way it is refused; else it does nothing.
        await client.unload(_NO_MODEL)
    except InferenceRefused as error:
        raise _refused(options, error.reason, _secret_hint(options)) from error
    except UnloadFailed as error:
        hint = "Start it with --model-control-mode=explicit."
        raise _refused(options, error.reason, hint) from error
    except (ServerUnreachable, ServerTimeout) as error:
        raise ServerUnreachable(options.name, f"{options.grpc_url} (gRPC)") from error
    finally:
        await client.close()


def _refused(options: LaunchOptions, reason: str, hint: str) -> LauncherUnavailable:
    cause = f"server '{options.name}' at {options.grpc_url} refuses to be managed: {reason}"
    return LauncherUnavailable("external", cause, hint)


def _secret_hint(options: LaunchOptions) -> str:
    if options.admin_secret is None:
        return (
            "Give the secret that opens its restricted APIs as admin_secret; it is sent as the "
            f"header '{ADMIN_KEY}'."
        )
    return (
        "The admin_secret is another than the server was started with, or its header is not "
        f"'{ADMIN_KEY}'."
    )


# -- watching ----------------------------------------------------------------------------------


class _Connections:
    """One connection at a time, and whether one has ended that was to be kept."""

    def __init__(self) -> None:
        self._kept = False
        self.broken = False
        """Whoever looks resets it."""

    def session(self) -> aiohttp.ClientSession:
        """A session whose connections are watched."""
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_start.append(self._begin)
        trace.on_request_end.append(self._answered)
        return _session(_SILENCE_S, trace_configs=[trace])

    async def _begin(self, *_: object) -> None:
        self.broken = self.broken or self._kept
        self._kept = False

    async def _answered(self, _: object, __: object, end: aiohttp.TraceRequestEndParams) -> None:
        # What stands between us and the server may close each connection after its answer.
        said = end.response.headers.get("Connection", "").lower()
        self._kept = said != "close" and end.response.version == aiohttp.HttpVersion11


class _Watch:
    """Looks at a server until it is lost.

    Triton tells neither when it was started nor who it is. But a connection that breaks, and a
    server behind it that holds nothing of what it held, are those of another process; and if they
    should not be, there is little to lose.
    """

    def __init__(self, http: str, client: TritonClient) -> None:
        self._http, self._client = http, client
        self._connections = _Connections()
        self._held: frozenset[str] = frozenset()

    async def until_lost(self) -> None:
        """Returns when nobody answers for a while, or when somebody else does."""
        loop = asyncio.get_running_loop()
        answered, looked = loop.time(), float("-inf")
        async with self._connections.session() as session:
            while loop.time() - answered < _GONE_AFTER_S:
                if await _answers(session, self._http):
                    answered = loop.time()
                    if self._connections.broken or answered - looked > _LOOK_S:
                        looked = answered
                        if await self._is_another():
                            return
                await asyncio.sleep(_POLL_S)

    async def _is_another(self) -> bool:
        """Whether it was restarted; notes what it holds if not."""
        try:
            index = await self._client.index()
        except FleetError:
            return False  # to be asked again, if it is still there
        holds = frozenset(entry.name for entry in index if entry.state in _PRESENT)
        if self._connections.broken and not self._held & holds:
            return True
        self._held, self._connections.broken = holds, False
        return False


async def _is_live(http: str) -> bool:
    async with _session(_ANSWER_TIMEOUT_S) as session:
        return await _answers(session, http)


def _session(timeout_s: float, **given: Any) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=1), **given)


async def _answers(session: aiohttp.ClientSession, http: str) -> bool:
    try:
        async with session.get(f"http://{http}/v2/health/live") as response:
            return response.status == 200
    except (aiohttp.ClientError, asyncio.TimeoutError):
        return False
