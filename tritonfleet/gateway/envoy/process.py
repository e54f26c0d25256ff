"""Envoy as a child of this process, by way of the guard that launchers use.

Knows how it is started, when it serves, why it ended, and how it stops without cutting anybody
short; what it is configured with lies in its folder already.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonfleet.errors import (
    ConfigRejected,
    LauncherUnavailable,
    PortTaken,
    ServerExited,
    ServerTimeout,
    ServerUnreachable,
)
from tritonfleet.gateway.envoy import files
from tritonfleet.gateway.envoy.admin import Admin
from tritonfleet.gateway.envoy.program import Program, container_name
from tritonfleet.launchers import logs
from tritonfleet.launchers.process import GuardedProcess, Order

_NAME = "envoy"
_SETTINGS = {"http": "--http-port", "grpc": "--grpc-port"}
"""What chooses the port of each listener."""
_READY_POLL_S = 0.01
_DRAIN_POLL_S = 0.05
_LOCK_POLL_S = 0.1
# A predecessor whose supervisor was killed needs this long to end.
_PREDECESSOR_S = 20.0
# Envoy ends at once when told; a container's client takes a little longer.
_END_S = 5.0
_TAIL_LINES = 20
_CANNOT_BIND = re.compile(r"cannot bind '\[?([^'\]]+)\]?:(\d+)'")
_INHERITED = re.compile(r"(PATH|HOME|LANG|TZ|LD_LIBRARY_PATH|TMPDIR|XDG_RUNTIME_DIR|DOCKER_.*)$")
"""The rest of the environment may hold the keys of tenants, and is none of Envoy's business."""


@dataclass(frozen=True, slots=True)
class EnvoyOptions:
    """One Envoy as the fleet wants it. Its folder holds ``bootstrap.json`` and what that names.

    Whoever starts it makes sure that nobody else has the ports: Envoy would not notice another
    Envoy, and share each port with it, and the connections.
    """

    program: Program
    folder: Path
    state_dir: Path
    host: str
    ports: Mapping[str, int]
    """By listener; all of them must be open before it counts as ready."""
    concurrency: int = 2
    reads: tuple[Path, ...] = ()
    """Further folders that a container must see: of the access log, of certificates."""

    @property
    def log(self) -> Path:
        """Of Envoy itself, as opposed to its access log."""
        return self.state_dir.resolve() / "logs" / f"{_NAME}.log"

    @property
    def admin(self) -> Path:
        """The socket of its admin interface."""
        return self.folder / "admin.sock"


class EnvoyProcess:
    """An Envoy that serves, until it ends or is stopped."""

    name = _NAME

    def __init__(self, options: EnvoyOptions, process: GuardedProcess) -> None:
        self.log_file: Path | None = options.log
        self.ports: Mapping[str, int] = {}
        """Where each listener listens, as it says itself."""
        self._options, self._process = options, process
        self._admin = Admin(options.admin)

    @classmethod
    async def start(cls, options: EnvoyOptions, start_timeout_s: float = 60.0) -> EnvoyProcess:
        """An Envoy that listens and routes; it ends with this process at the latest.

        Raises PortTaken, ServerExited with the end of its log, ServerTimeout, or
        LauncherUnavailable when another Envoy keeps running from the folder.
        """
        async with _locked(options.folder) as lock:
            await options.program.remove(container_name(options.folder))
            logs.rotate(options.log)
            options.log.touch(mode=0o600)
            process = await GuardedProcess.start(_order(options), options.log, lock)
        server = cls(options, process)
        try:
            await server._until_ready(start_timeout_s)
        except BaseException:
            await server.stop(0)
            raise
        return server

    @property
    def pid(self) -> int:
        """Of Envoy, or of the client that runs its container."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    async def wait(self) -> int:
        """The exit status, once it has ended."""
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """Ends it; requests under way get ``grace_s`` seconds, new ones are refused.

        Harmless afterwards.
        """
        if self.poll() is None and grace_s > 0:
            with contextlib.suppress(ServerUnreachable, ServerTimeout, asyncio.TimeoutError):
                await asyncio.wait_for(self._drain(), grace_s)
        await self._admin.close()
        await self._process.stop(_END_S)
        await self._options.program.remove(container_name(self._options.folder))

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines that it wrote."""
        return logs.tail(self._options.log, lines)

    async def _drain(self) -> None:
        await self._admin.refuse_newcomers()
        idle = 0
        while idle < 2:  # the last bytes of an answer leave after it has been counted as done
            idle = idle + 1 if await self._admin.downstream_active() == 0 else 0
            await asyncio.sleep(_DRAIN_POLL_S)

    async def _until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not await self._admin.ready():
            if self.poll() is not None:
                raise self._reason(await self.wait())
            if time.monotonic() > deadline:
                raise ServerTimeout(self.name, "start", timeout_s)
            await asyncio.sleep(_READY_POLL_S)  # it tells nobody by itself
        self.ports = await self._admin.listening()
        if missing := self._options.ports.keys() - self.ports:
            raise self._not_listening(sorted(missing))

    def _reason(self, status: int) -> PortTaken | ServerExited:
        tail = self.log_tail()
        return self._taken(tail) or ServerExited(self.name, status, tail, str(self.log_file))

    def _not_listening(self, listeners: list[str]) -> PortTaken | ConfigRejected:
        tail = self.log_tail()
        cause = f"it does not open {' and '.join(listeners)}:\n{tail}"
        return self._taken(tail) or ConfigRejected(str(self._options.program), cause)

    def _taken(self, tail: str) -> PortTaken | None:
        found = _CANNOT_BIND.search(tail)
        if found is None:
            return None
        port = int(found[2])
        return PortTaken(found[1], port, _setting(self._options.ports, port))


def _setting(ports: Mapping[str, int], port: int) -> str:
    named = [_SETTINGS[name] for name, wanted in ports.items() if wanted == port]
    return named[0] if named else "another port"


@contextlib.asynccontextmanager
async def _locked(folder: Path) -> AsyncIterator[int]:
    deadline = time.monotonic() + _PREDECESSOR_S
    while True:
        with files.locked(folder) as lock:
            if lock is not None:
                yield lock
                return
        if time.monotonic() > deadline:
            raise LauncherUnavailable(
                _NAME,
                f"another one already runs from {folder}",
                "Stop it, or choose another state_dir.",
            )
        await asyncio.sleep(_LOCK_POLL_S)


def _order(options: EnvoyOptions) -> Order:
    arguments = [
        *("--config-path", str(options.folder / "bootstrap.json")),
        *("--concurrency", str(options.concurrency)),
        *("--log-level", "warning"),
        # Lines of the access log, which would otherwise come in tens of seconds.
        *("--file-flush-interval-msec", "1000"),
        "--disable-hot-restart",
    ]
    folders = (options.folder, *options.reads)
    name = container_name(options.folder)
    return Order(
        argv=options.program.command(arguments, folders, name),
        env={key: value for key, value in os.environ.items() if _INHERITED.match(key)},
        cwd=str(options.folder),
        shared_memory_prefix="",
    )
