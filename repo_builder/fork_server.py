"""A process that has the heavy libraries loaded, and forks itself for each export.

Importing PyTorch, Transformers and the exporter takes longer than exporting a small model; so it is
done once for a build. What a fork does to itself, or what the kernel does to it, nobody else sees.
The server has a session of its own, and so has each fork: a Ctrl-C in the terminal reaches only the
builder, which ends them. They also end when the builder does, however that happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

PRELOADED = (
    "torch", "torch.onnx", "torch._dynamo", "onnxscript", "onnx", "transformers",
    "transformers.modeling_utils", "repo_builder.export_process",
)  # fmt: skip
_SERVE = "from repo_builder.fork_server import serve; serve()"
_PR_SET_PDEATHSIG = 1
_LARGEST_MESSAGE = 1 << 12
_MOST_DESCRIPTORS = 4
Entry = Callable[[int, int], None]
"""What a fork does with the descriptors of its order and of its answer; it does not return."""


@dataclass(frozen=True, slots=True)
class Fork:
    """A process of the server's, that can be waited for by its ``pidfd``."""

    pid: int
    pidfd: int


class ForkServer:
    """Starts forks, ends them, and tells how they ended. Use it in a ``with``."""

    def __init__(self, log: Path, entry: str, preloaded: Iterable[str] = PRELOADED) -> None:
        """``entry`` is the ``module:function`` that every fork runs."""
        self._log, self._entry, self._preloaded = log, entry, tuple(preloaded)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._statuses: dict[int, int] = {}

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._control is not None:
            # It ends, with all its forks, when nobody can ask it any more.
            self._control.close()
            self._process.wait()
            self._process = self._control = None

    def start(self, order: bytes, answer: int, log: Path) -> Fork:
        """A fork that reads ``order``, writes to the descriptor ``answer``, and prints to a log.

        The first one waits until the server has loaded its libraries, which takes seconds.
        """
        control = self._running()
        reading, writing = os.pipe()
        try:
            with log.open("wb") as output:
                socket.send_fds(control, [b'{"start": 0}'], [reading, answer, output.fileno()])
        finally:
            os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            fork = self._started()
            # One that died already is told by its status.
            with contextlib.suppress(BrokenPipeError):
                pipe.write(order)
                pipe.flush()
        return fork

    def kill(self, fork: Fork) -> None:
        """Ends a fork and everything it started, at once; harmless when it has ended."""
        if fork.pid not in self._statuses and self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send(json.dumps({"kill": fork.pid}).encode())
            self.status(fork)

    def status(self, fork: Fork) -> int:
        """Waits for a fork's end; its exit status, negative for a signal."""
        while fork.pid not in self._statuses:
            message, _ = self._receive()
            if not message:  # the server itself was killed, and its forks with it
                self._statuses[fork.pid] = -signal.SIGKILL
                # Not so what those have started: it is still in the group that bears their number.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(fork.pid, signal.SIGKILL)
        return self._statuses[fork.pid]

    def _started(self) -> Fork:
        while True:
            message, descriptors = self._receive()
            if "started" in message:
                return Fork(message["started"], descriptors[0])
            if not message:
                raise ChildProcessError(f"the export server ended; its log is {self._log}")

    def _receive(self) -> tuple[Mapping[str, int], list[int]]:
        """The next message, noted if it tells of an end; an empty one when the server is gone."""
        assert self._control is not None, "it has been started"
        text, descriptors, *_ = socket.recv_fds(self._control, _LARGEST_MESSAGE, _MOST_DESCRIPTORS)
        message: dict[str, int] = json.loads(text) if text else {}
        if "ended" in message:
            self._statuses[message["ended"]] = message["status"]
        return message, descriptors

    def _running(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self.__exit__()
        if self._control is None:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = self._launch(theirs)
        return self._control

    def _launch(self, control: socket.socket) -> subprocess.Popen[bytes]:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join(path for path in sys.path if path)
        arguments = (control.fileno(), os.getpid(), self._entry, *self._preloaded)
        with self._log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-c", _SERVE, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(control.fileno(),),
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,
            )


def die_with(parent: int) -> None:
    """Asks the kernel to end this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def serve() -> None:
    """The server's whole life."""
    descriptor, parent, entry, *preloaded = sys.argv[1:]
    die_with(int(parent))
    for name in preloaded:
        # What is not installed is missed by whoever needs it, with an error of its own.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    module, _, function = entry.partition(":")
    work: Entry = getattr(importlib.import_module(module), function)
    _Server(socket.socket(fileno=int(descriptor)), work).run()


@dataclass(slots=True)
class _Server:
    """Takes orders from one socket, and looks after the forks."""

    control: socket.socket
    work: Entry
    forks: dict[int, int] = field(default_factory=dict)
    """By pidfd."""

    def run(self) -> None:
        while True:
            for ready in connection.wait([self.control, *self.forks]):
                if ready is self.control:
                    self._obey()
                else:
                    self._bury(ready)

    def _obey(self) -> None:
        text, descriptors, *_ = socket.recv_fds(self.control, _LARGEST_MESSAGE, _MOST_DESCRIPTORS)
        message = json.loads(text) if text else {}
        if "start" in message:
            self._fork(*descriptors)
        elif "kill" in message:
            self._kill(message["kill"])
        else:
            for pid in self.forks.values():
                self._kill(pid)
            os._exit(0)

    def _fork(self, order: int, answer: int, log: int) -> None:
        server, pid = os.getpid(), os.fork()
        if pid == 0:
            os.setsid()
            die_with(server)
            self.control.close()
            for stream in (1, 2):
                os.dup2(log, stream)
            self.work(order, answer)
            os._exit(0)
        for descriptor in (order, answer, log):
            os.close(descriptor)
        pidfd = os.pidfd_open(pid)
        self.forks[pidfd] = pid
        socket.send_fds(self.control, [json.dumps({"started": pid}).encode()], [pidfd])

    def _kill(self, pid: int) -> None:
        # Not yet waited for, so that the number is still its own, as is that of its group.
        if pid in self.forks.values():
            for end in (os.kill, os.killpg):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    end(pid, signal.SIGKILL)

    def _bury(self, pidfd: Any) -> None:
        pid = self.forks[pidfd]
        self._kill(pid)  # what it has started goes with it
        del self.forks[pidfd]
        os.close(pidfd)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(OSError):
            self.control.send(json.dumps({"ended": pid, "status": status}).encode())
