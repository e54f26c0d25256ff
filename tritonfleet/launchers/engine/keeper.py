"""Sees one container through: its output, its end, and that it does not outlive its launcher.

A process of its own, started through the guard as an embedded server is: so it is told when the
launcher dies, however that dies, what it writes is the server's log, and its exit status is the
server's. The container is known by a label, for it may not exist yet when the keeper starts; in
that way there is no moment in which nobody would remove it.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # Before all else: told to end while it is still importing, it must not just die.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

import argparse
import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tritonfleet.errors import EngineUnavailable, LaunchError
from tritonfleet.launchers.engine.client import Engine
from tritonfleet.launchers.engine.facts import OUT_OF_MEMORY, Container, Gone

_APPEARANCE_POLL_S = 0.05
_WAIT_S = 10.0
_ENGINE_POLL_S = 1.0
_LAST_OUTPUT_S = 5.0
_LATE_S = 1.0
# How long an engine that is away may take to come back and tell the status of a dead server.
_VERDICT_S = 3.0
_KILLED = 137
_PR_SET_PDEATHSIG = 1


class _Told(BaseException):
    """SIGTERM."""


def main(arguments: Sequence[str]) -> int:
    """Keeps the container that the arguments tell of; the exit status to report."""
    # Not by force, as the guard asked for: if it is killed there is a container to end.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    keeper = Keeper(_parser().parse_args(arguments))
    signal.signal(signal.SIGTERM, _tell)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        status = keeper.watch()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        return status
    except _Told:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        return keeper.leave()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine")
    parser.add_argument("--label", required=True, help="KEY=VALUE that only this container bears")
    parser.add_argument("--instance", required=True, help="what its server is told by --id")
    parser.add_argument("--since", type=float, help="output before is known; all is new without it")
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("--keep", action="store_true")
    return parser


def _tell(number: int, frame: FrameType | None) -> None:
    raise _Told


def _say(text: str) -> None:
    sys.stdout.write(f"tritonfleet: {text}\n")
    sys.stdout.flush()


class Keeper:
    """Watches one container from before its start to after its end."""

    def __init__(self, told: argparse.Namespace) -> None:
        self._told = told
        self._engine: Engine | None = None
        self._container: Container | None = None
        self._follower: threading.Thread | None = None
        self._since: float | None = told.since
        self._here = False
        """Whether its process was seen on this machine, so that its absence means something."""

    def watch(self) -> int:
        """The server's exit status, once it has ended and its container is removed."""
        while True:
            try:
                return self._watch_as_long_as_the_engine_is_there()
            except EngineUnavailable as error:
                if not self._await_engine(error):
                    return _KILLED

    def leave(self) -> int:
        """Ends and removes the container, or leaves it alone if it shall be kept."""
        if self._told.keep:
            return 0
        try:
            return self._end()
        except Gone:
            return 0
        except LaunchError as error:
            return self._end_without_engine(error)

    # -- watching ----------------------------------------------------------------------------

    def _watch_as_long_as_the_engine_is_there(self) -> int:
        engine = self._connected()
        try:
            while True:
                container = self._container = self._appearance(engine)
                self._follow(engine, container)
                self._lives_here()
                status = engine.wait(container.id, _WAIT_S)
                if status is not None:
                    return self._clear(engine, status)
        except Gone:
            _say("the container was removed by somebody else")
            return _KILLED

    def _connected(self) -> Engine:
        if self._engine is None:
            self._engine = Engine.connect(self._told.engine)
        return self._engine

    def _appearance(self, engine: Engine) -> Container:
        """The container as it is, once it has been started."""
        while True:
            found = self._look(engine)
            if found is not None and found.status != "created":
                return found
            time.sleep(_APPEARANCE_POLL_S)

    def _look(self, engine: Engine) -> Container | None:
        if self._container is not None:
            return engine.inspect(self._container.id)
        key, _, value = self._told.label.partition("=")
        return next(iter(engine.find({key: value})), None)

    def _follow(self, engine: Engine, container: Container) -> None:
        """Copies what it writes, on a thread; at most one at a time."""
        if self._follower is None or not self._follower.is_alive():
            arguments = (engine, container.id)
            self._follower = threading.Thread(target=self._copy, args=arguments, daemon=True)
            self._follower.start()

    def _copy(self, engine: Engine, container: str) -> None:
        # Else the kernel may give this thread the signal, and the other would sleep on.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        # An engine that goes away is noticed, and told of, by the thread that waits.
        with contextlib.suppress(LaunchError, Gone):
            for chunk in engine.output(container, self._since):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
                self._since = time.time()

    def _clear(self, engine: Engine, status: int) -> int:
        """Removes the container, which has ended, with its last words; its exit status."""
        assert self._container
        ended = engine.inspect(self._container.id)
        if self._follower is not None:
            self._follower.join(_LAST_OUTPUT_S)
        why = f", for it {OUT_OF_MEMORY}" if ended.out_of_memory else ""
        why += f": {ended.error}" if ended.error else ""
        _say(f"container {ended.name} ended with status {status}{why}")
        engine.remove(ended.id)
        return status & 0xFF

    # -- without the engine ------------------------------------------------------------------

    def _await_engine(self, error: EngineUnavailable) -> bool:
        """Waits for the engine; False when the server has died and nobody tells its status."""
        _say(f"{error} The server may go on without it; it is watched again when that is back.")
        alive = time.monotonic()
        while time.monotonic() - alive < _VERDICT_S:
            time.sleep(_ENGINE_POLL_S)
            if self._is_engine_back():
                _say("the engine is back")
                return True
            unknown = self._container is not None and not self._here  # on another machine
            if self._lives_here() or unknown:
                alive = time.monotonic()
        _say("the server has died while the engine was away")
        return False

    def _is_engine_back(self) -> bool:
        self._forget_engine()
        with contextlib.suppress(EngineUnavailable):
            self._connected()
        return self._engine is not None

    def _forget_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _lives_here(self) -> bool:
        alive = self._server_pid() is not None
        self._here = self._here or alive
        return alive

    def _server_pid(self) -> int | None:
        """The container's first process, if it lives and is one of this machine's."""
        if self._container is not None:
            return self._container.pid if self._is_server(self._container.pid) else None
        # The engine went away before we saw the container; but the server may live.
        everybody = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
        return min(filter(self._is_server, everybody), default=None)

    def _is_server(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            return f"--id={self._told.instance}".encode() in arguments
        return False

    # -- ending ------------------------------------------------------------------------------

    def _end(self) -> int:
        engine = self._connected()
        container = self._look(engine)
        if container is None:  # perhaps it is being made at this very moment
            time.sleep(_LATE_S)
            container = self._look(engine)
        if container is None:
            return 0
        self._container = container
        if container.status != "created":
            self._follow(engine, container)
            engine.stop(container.id, self._told.grace)
        return self._clear(engine, engine.inspect(container.id).exit_status)

    def _end_without_engine(self, error: LaunchError) -> int:
        """Ends the server's process itself; the next start removes the container."""
        pid = self._server_pid()
        _say(f"{error} The server is ended without it.")
        if pid is None:
            return _KILLED
        for number, patience_s in ((signal.SIGTERM, self._told.grace), (signal.SIGKILL, _LATE_S)):
            try:
                os.kill(pid, number)
            except PermissionError:
                _say(f"process {pid} belongs to another user and may still run")
                return _KILLED
            except ProcessLookupError:
                break
            deadline = time.monotonic() + patience_s
            while self._server_pid() is not None and time.monotonic() < deadline:
                time.sleep(_APPEARANCE_POLL_S)
        return _KILLED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
