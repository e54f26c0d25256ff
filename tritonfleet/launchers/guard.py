"""Stands between a launcher and its tritonserver, and never lets the server outlive the launcher.

Runs as a process of its own and is named by its path, so it may import the standard library only.
It adopts every process the server leaves behind: when the server ends, crashed or not, its model
processes end too, their shared memory goes, and so does the socket on which they told of
themselves.

The launcher speaks on standard input: first one line of JSON (``argv``, ``env``, ``cwd``,
``shared_memory_prefix``, ``events_folder``, ``orphan_grace_s``), later perhaps ``stop SECONDS``.
Its end of the pipe closes when it dies, however it dies, and that means stop as well. Standard
output carries the server's process id; standard error is the server's log. The exit status is the
server's, as a shell tells it: 128 plus the number for a signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import select
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - Triton's choice, not a temporary file of ours
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_EXEC_FAILED = 127


def remove_shared_memory(prefix: str) -> None:
    """Removes the regions whose names begin so; an empty prefix removes nothing."""
    for region in SHARED_MEMORY.glob(f"{prefix}*") if prefix else ():
        with contextlib.suppress(OSError):
            region.unlink()


def remove_folder(path: str) -> None:
    """Removes a folder of files; an empty path removes nothing."""
    if not path:
        return
    with contextlib.suppress(OSError):
        for file in Path(path).iterdir():
            file.unlink()
        Path(path).rmdir()


def main() -> int:
    """Starts the server it is told to, sees it through, cleans up; the exit status to report."""
    _process_control(_PR_SET_CHILD_SUBREAPER, 1)
    launcher = _Launcher()
    order = json.loads(launcher.first_line())
    server = _spawn(order)
    wakeup = _wake_on_signals()  # only now: handlers in the fork would swallow an early stop
    sys.stdout.write(f"{server}\n")
    sys.stdout.flush()
    status = _attend(server, launcher, wakeup, order["orphan_grace_s"])
    _end_the_rest()
    remove_shared_memory(order["shared_memory_prefix"])
    remove_folder(order["events_folder"])
    return status if status >= 0 else 128 - status


class _Launcher:
    """The launcher's end of standard input."""

    def __init__(self) -> None:
        self._buffer = b""
        self.gone = False

    def first_line(self) -> bytes:
        while b"\n" not in self._buffer and not self.gone:
            self.read()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def read(self) -> None:
        received = os.read(sys.stdin.fileno(), 65536)
        self._buffer += received
        self.gone = not received

    def wishes(self) -> list[float]:
        """The grace of every ``stop`` received so far, in seconds."""
        *lines, self._buffer = self._buffer.split(b"\n")
        return [float(line.split()[1]) for line in lines if line.startswith(b"stop ")]


def _wake_on_signals() -> int:
    """A descriptor that becomes readable on SIGCHLD and SIGTERM."""
    receiver, sender = os.pipe()
    os.set_blocking(receiver, False)
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, _nothing)
    return receiver


def _nothing(number: int, frame: FrameType | None) -> None:
    """Makes the kernel deliver the signal; the wake-up descriptor tells of it."""


def _spawn(order: dict[str, Any]) -> int:
    guard = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        _process_control(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it died before the line above
            os._exit(_EXEC_FAILED)
        _become_server(order)
    except BaseException as error:  # noqa: BLE001 - a forked copy of the guard must not live on
        os.write(2, f"cannot start {order['argv'][0]}: {error}\n".encode())
    os._exit(_EXEC_FAILED)


def _become_server(order: dict[str, Any]) -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would keep that
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for descriptor in [int(link.name) for link in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the one that listed the folder is closed already
                os.close(descriptor)
    os.chdir(order["cwd"])
    os.execve(order["argv"][0], order["argv"], order["env"])


def _attend(server: int, launcher: _Launcher, wakeup: int, orphan_grace_s: float) -> int:
    """Waits for the server's end, hastening it when asked; its status, negative for a signal."""
    poller = select.poll()
    poller.register(wakeup, select.POLLIN)
    poller.register(sys.stdin, select.POLLIN)
    deadline = math.inf
    while (status := _reap(server)) is None:
        if time.monotonic() >= deadline:
            os.kill(server, signal.SIGKILL)
            deadline = math.inf
        ready = {descriptor for descriptor, _ in poller.poll(_milliseconds_until(deadline))}
        graces = []
        if wakeup in ready and signal.SIGTERM in os.read(wakeup, 4096):
            graces.append(orphan_grace_s)
        if sys.stdin.fileno() in ready:
            launcher.read()
            graces += launcher.wishes()
        if launcher.gone and sys.stdin.fileno() in ready:
            poller.unregister(sys.stdin)
            graces.append(orphan_grace_s)
        for grace_s in graces:
            os.kill(server, signal.SIGTERM)
            deadline = min(deadline, time.monotonic() + grace_s)
    return status


def _milliseconds_until(deadline: float) -> float | None:
    return None if deadline == math.inf else max(0.0, (deadline - time.monotonic()) * 1000)


def _reap(server: int) -> int | None:
    """Collects every child that has ended; the server's status when it is among them."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == server:
                return os.waitstatus_to_exitcode(status)
            if pid == 0:
                return None
    return None


def _end_the_rest() -> None:
    """Kills what the server left behind, generation by generation: orphans become our children."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state ppid ...", and the name may hold spaces and parentheses
            parent = status.read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.append(int(status.parent.name))
    return found


def _process_control(option: int, argument: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


if __name__ == "__main__":
    sys.exit(main())
