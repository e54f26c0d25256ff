"""The tritonserver of the ``nvidia-pytriton`` wheel as a child process: no container, no GPU.

Knows what a start needs (an installation, free ports, a secret) and when it has succeeded; the
command line is command.py's, the process is process.py's.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tritonfleet.errors import PortTaken, ServerExited, ServerTimeout
from tritonfleet.launchers import logs
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.command import (
    ADMIN_KEY,
    LOOPBACK,
    Invocation,
    shared_memory_prefix,
    tritonserver_command,
)
from tritonfleet.launchers.guard import remove_folder, remove_shared_memory
from tritonfleet.launchers.lock import locked
from tritonfleet.launchers.native import (
    Choice,
    choose_backend,
    events_folder,
    listen_for_events,
    stop_listening,
)
from tritonfleet.launchers.process import GuardedProcess, Order
from tritonfleet.launchers.readiness import PORT_TAKEN, Ended, free_ports, until_ready
from tritonfleet.launchers.rehearsal import rehearse
from tritonfleet.launchers.site import ServerSite
from tritonfleet.launchers.wheel import (
    Installation,
    Wheel,
    assemble,
    find_wheel,
    server_environment,
)
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.server.events import ModelEvents

_LAUNCHER = "embedded"
_PORT_ATTEMPTS = 5
_TAIL_LINES = 20


class EmbeddedServer:
    """A tritonserver of ours, with its log."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        log_file: Path,
        process: GuardedProcess,
        backend: Choice,
        events: ModelEvents | None,
    ) -> None:
        self.name, self.endpoint = name, endpoint
        self.log_file: Path | None = log_file
        self.onnxruntime_backend: str | None = str(backend)
        self.events = events
        self._log, self._process = log_file, process

    def poll(self) -> int | None:
        """The exit status of tritonserver, negative for a signal; None while it runs."""
        return self._process.poll()

    async def wait(self) -> int:
        """The exit status, once tritonserver and all its model processes have ended."""
        status = await self._process.wait()
        stop_listening(self.events)
        return status

    async def stop(self, grace_s: float) -> None:
        """Ends the server; requests in flight get ``grace_s`` seconds. Harmless afterwards."""
        await self._process.stop(grace_s)
        stop_listening(self.events)

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
        async with locked(site.folder, _LAUNCHER, options.name) as lock:
            plan = site.prepare(wheel, await _choose(options))
            for _ in range(_PORT_ATTEMPTS):
                try:
                    return await self._attempt(plan, lock)
                except PortTaken as error:  # free a moment ago, somebody else's now
                    lost = error
        raise lost

    async def _attempt(self, plan: _Plan, lock: int) -> EmbeddedServer:
        instance = f"tritonfleet-{secrets.token_hex(6)}"
        if not plan.backend.native:
            return await self._start(plan, _new_invocation(instance), None, lock)
        events = await listen_for_events(instance)
        try:
            return await self._start(plan, _new_invocation(instance, events.path), events, lock)
        except BaseException:
            stop_listening(events)
            raise

    async def _start(
        self, plan: _Plan, invocation: Invocation, events: ModelEvents | None, lock: int
    ) -> EmbeddedServer:
        name, log = plan.site.options.name, plan.site.log
        log_start = log.stat().st_size
        process = await GuardedProcess.start(plan.order(invocation), log, lock)
        endpoint = _endpoint(invocation, process.pid)
        server = EmbeddedServer(name, endpoint, log, process, plan.backend, events)
        try:
            ready = until_ready(endpoint, invocation.instance, server.poll)
            await asyncio.wait_for(ready, self._start_timeout_s)
            if events is not None:
                await rehearse(name, endpoint, events)
        except asyncio.TimeoutError:
            await process.stop(0)
            raise ServerTimeout(server.name, "start", self._start_timeout_s) from None
        except Ended:
            raise _reason(server, await process.wait(), log_start) from None
        except BaseException:
            await process.stop(0)
            raise
        return server


def _reason(server: EmbeddedServer, status: int, log_start: int) -> PortTaken | ServerExited:
    assert server.log_file
    tail = logs.tail(server.log_file, _TAIL_LINES, log_start)
    taken = PORT_TAKEN.search(tail)
    if taken:
        return PortTaken(taken[1], int(taken[2]), "another start, which picks others")
    return ServerExited(server.name, status, tail, str(server.log_file))


async def _choose(options: LaunchOptions) -> Choice:
    # On a thread: a library that hangs while it is tried must not hold up the fleet.
    return await asyncio.to_thread(choose_backend, options.onnxruntime_backend, os.environ)


def _new_invocation(instance: str, events: Path | None = None) -> Invocation:
    return Invocation(instance, free_ports(), secrets.token_hex(16), events)


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


@dataclass(frozen=True, slots=True)
class _Site(ServerSite):
    """What an embedded server has on disk: also an installation, and a note for a successor."""

    # A model's process looks for modules in its working directory first: the user's may hold
    # anything, so that it is the server's folder.
    launcher: ClassVar[str] = _LAUNCHER

    def prepare(self, wheel: Wheel, backend: Choice) -> _Plan:
        """Removes what an earlier run may have left, and lays everything out for a new one."""
        if self._instance_file.exists():
            instance = self._instance_file.read_text()
            remove_shared_memory(shared_memory_prefix(instance))
            remove_folder(str(events_folder(instance)))
        logs.rotate(self.log)
        self.log.touch()
        installation = assemble(wheel, self.folder / "installation", backend.native)
        return _Plan(self, wheel, installation, backend)

    def note(self, invocation: Invocation) -> None:
        """Writes down what the guard would leave if it were killed."""
        self._instance_file.write_text(invocation.instance)

    @property
    def _instance_file(self) -> Path:
        return self.folder / "instance"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all attempts of one start share."""

    site: _Site
    wheel: Wheel
    installation: Installation
    backend: Choice

    def order(self, invocation: Invocation) -> Order:
        """What the guard is to do."""
        self.site.note(invocation)
        native = self.backend.native
        return Order(
            argv=tritonserver_command(
                self.wheel.tritonserver,
                self.installation.backends,
                self.site.options,
                invocation,
                gpu=Path("/dev/nvidiactl").exists(),
                native=native,
            ),
            env=server_environment(self.wheel, self.installation, os.environ, native=native),
            cwd=str(self.site.folder),
            shared_memory_prefix=shared_memory_prefix(invocation.instance),
            events_folder=str(invocation.events.parent) if invocation.events else "",
        )
