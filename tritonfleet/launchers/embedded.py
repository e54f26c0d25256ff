"""The tritonserver of the ``nvidia-pytriton`` wheel as a child process: no container, no GPU.

Knows what a start needs (an installation, free ports, a secret) and when it has succeeded; the
command line is command.py's, the process is process.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from tritonfleet.errors import LauncherUnavailable, PortTaken, ServerExited, ServerTimeout
from tritonfleet.launchers import logs
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.command import (
    ADMIN_KEY,
    LOOPBACK,
    Invocation,
    Ports,
    shared_memory_prefix,
    tritonserver_command,
)
from tritonfleet.launchers.guard import remove_shared_memory
from tritonfleet.launchers.process import GuardedProcess, Order
from tritonfleet.launchers.wheel import (
    Installation,
    Wheel,
    assemble,
    find_wheel,
    server_environment,
)
from tritonfleet.server.endpoint import Endpoint

_PORT_ATTEMPTS = 5
_READY_POLL_S = 0.02
_ANSWER_TIMEOUT_S = 2.0
# A predecessor whose launcher was killed needs this long to drain and end.
_PREDECESSOR_S = 20.0
_LOCK_POLL_S = 0.1
_TAIL_LINES = 20
_PORT_TAKEN = re.compile(r"Socket '([^']+):(\d+)' already in use")


class EmbeddedServer:
    """A tritonserver of ours, with its log."""

    def __init__(
        self, name: str, endpoint: Endpoint, log_file: Path, process: GuardedProcess
    ) -> None:
        self.name, self.endpoint = name, endpoint
        self.log_file: Path | None = log_file
        self._log, self._process = log_file, process

    def poll(self) -> int | None:
        """The exit status of tritonserver, negative for a signal; None while it runs."""
        return self._process.poll()

    async def wait(self) -> int:
        """The exit status, once tritonserver and all its model processes have ended."""
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """Ends the server; requests in flight get ``grace_s`` seconds. Harmless afterwards."""
        await self._process.stop(grace_s)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that tritonserver and its models wrote."""
        return logs.tail(self._log, lines)


class EmbeddedLauncher:
    """Starts a tritonserver here; several at once are fine, each under a name of its own."""

    def __init__(self, start_timeout_s: float = 60.0) -> None:
        self._start_timeout_s = start_timeout_s

    async def start(self, options: LaunchOptions) -> EmbeddedServer:
        """A server that answers readiness; it ends with this process at the latest.

        Raises LauncherUnavailable, PortTaken, ServerExited or ServerTimeout.
        """
        wheel = find_wheel()
        site = _Site.of(options)
        async with site.locked() as lock:
            installation = site.prepare(wheel)
            environment = server_environment(wheel, installation, os.environ)
            for _ in range(_PORT_ATTEMPTS):
                invocation = _new_invocation()
                order = site.order(wheel, installation, invocation, environment)
                try:
                    return await self._attempt(site, order, invocation, lock)
                except PortTaken as error:  # free a moment ago, somebody else's now
                    lost = error
        raise lost

    async def _attempt(
        self, site: _Site, order: Order, invocation: Invocation, lock: int
    ) -> EmbeddedServer:
        log_start = site.log.stat().st_size
        process = await GuardedProcess.start(order, site.log, lock)
        endpoint = _endpoint(invocation, process.pid)
        server = EmbeddedServer(site.options.name, endpoint, site.log, process)
        try:
            await asyncio.wait_for(_until_ready(server, invocation.instance), self._start_timeout_s)
        except asyncio.TimeoutError:
            await process.stop(0)
            raise ServerTimeout(server.name, "start", self._start_timeout_s) from None
        except _Ended:
            raise _reason(server, await process.wait(), log_start) from None
        except BaseException:
            await process.stop(0)
            raise
        return server


def _reason(server: EmbeddedServer, status: int, log_start: int) -> PortTaken | ServerExited:
    assert server.log_file
    tail = logs.tail(server.log_file, _TAIL_LINES, log_start)
    taken = _PORT_TAKEN.search(tail)
    if taken:
        return PortTaken(taken[1], int(taken[2]), "another start, which picks others")
    return ServerExited(server.name, status, tail, str(server.log_file))


def free_ports() -> Ports:
    """Three different ports that nobody listened on a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for free in sockets:
            free.bind((LOOPBACK, 0))
        http, grpc, metrics = (free.getsockname()[1] for free in sockets)
    return Ports(http, grpc, metrics)


def _new_invocation() -> Invocation:
    instance = f"tritonfleet-{secrets.token_hex(6)}"
    return Invocation(instance, free_ports(), admin_secret=secrets.token_hex(16))


def _endpoint(invocation: Invocation, pid: int) -> Endpoint:
    ports = invocation.ports
    return Endpoint(
        http=f"{LOOPBACK}:{ports.http}",
        grpc=f"{LOOPBACK}:{ports.grpc}",
        metrics=f"{LOOPBACK}:{ports.metrics}",
        pid=pid or None,  # 0 when the guard ended before it could tell
        admin_key=ADMIN_KEY,
        admin_secret=invocation.admin_secret,
    )


class _Ended(Exception):
    """The process ended before it was ready."""


async def _until_ready(server: EmbeddedServer, instance: str) -> None:
    timeout = aiohttp.ClientTimeout(total=_ANSWER_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while not await _is_ready(session, server.endpoint, instance):
            if server.poll() is not None:
                raise _Ended
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


@dataclass(frozen=True, slots=True)
class _Site:
    """What one server has on disk: its folder, its log, and a lock that keeps others away."""

    options: LaunchOptions
    folder: Path
    log: Path

    @classmethod
    def of(cls, options: LaunchOptions) -> _Site:
        # Absolute, for tritonserver runs in the folder: a model's process looks for modules in its
        # working directory first, and the user's may hold anything.
        state = options.state_dir.resolve()
        options = replace(options, repository=options.repository.resolve(), state_dir=state)
        if not options.repository.is_dir():
            raise LauncherUnavailable(
                "embedded",
                f"there is no model repository {options.repository}",
                "'tritonfleet build' makes one.",
            )
        return cls(
            options, state / "servers" / options.name, state / "logs" / f"{options.name}.log"
        )

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncIterator[int]:
        """The lock's descriptor; LauncherUnavailable when a server of that name keeps running."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("ab") as file:
            deadline = time.monotonic() + _PREDECESSOR_S
            while not _try_lock(file.fileno()):
                if time.monotonic() > deadline:
                    raise LauncherUnavailable(
                        "embedded",
                        f"a server '{self.options.name}' already runs from {self.folder}",
                        "Stop it, or choose another state_dir.",
                    )
                await asyncio.sleep(_LOCK_POLL_S)
            yield file.fileno()

    def prepare(self, wheel: Wheel) -> Installation:
        """Removes what an earlier run may have left, and lays everything out for a new one."""
        if self._instance_file.exists():
            remove_shared_memory(shared_memory_prefix(self._instance_file.read_text()))
        logs.rotate(self.log)
        self.log.touch()
        return assemble(wheel, self.folder / "installation")

    def order(
        self,
        wheel: Wheel,
        installation: Installation,
        invocation: Invocation,
        environment: Mapping[str, str],
    ) -> Order:
        """What the guard is to do, with a note on disk of what it would leave if it were killed."""
        self._instance_file.write_text(invocation.instance)
        return Order(
            argv=tritonserver_command(
                wheel.tritonserver,
                installation.backends,
                self.options,
                invocation,
                gpu=Path("/dev/nvidiactl").exists(),
            ),
            env=environment,
            cwd=str(self.folder),
            shared_memory_prefix=shared_memory_prefix(invocation.instance),
        )

    @property
    def _instance_file(self) -> Path:
        return self.folder / "instance"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
