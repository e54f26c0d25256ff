"""Runs one function in a process of its own, and lives through whatever happens to it.

Loading a model takes memory that Python never gives back, exporters crash, and the kernel kills
what is too large. All of that stays inside; what is printed goes to a log file.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, TypeAlias

from repo_builder.causes import last_lines, root_cause
from tritonfleet.errors import ExportFailed, FleetError

Report: TypeAlias = Callable[[str], None]
Work: TypeAlias = Callable[[Any, Report], Any]
_CHILD = "from repo_builder.isolation import run_child; run_child()"
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """The child has begun another phase."""

    phase: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The child has ended: with a value, or with an error."""

    value: Any = None
    error: FleetError | None = None


class IsolatedCall:
    """``function(argument, report)`` running in a fresh process; use it in a ``with``.

    A subprocess and not ``multiprocessing``: it has a session of its own from the start, so that a
    Ctrl-C in the terminal reaches only the builder, which then ends it with all it started; and
    nothing of the caller's main module runs twice.
    """

    def __init__(self, model: str, function: Work, argument: Any, log: Path) -> None:
        self.model, self.log = model, log
        log.parent.mkdir(parents=True, exist_ok=True)
        receiver, sender = os.pipe()
        self._receiver = connection.Connection(receiver, writable=False)
        try:
            self._process = _start(sender, log)
        finally:
            os.close(sender)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._hand_over(pickle.dumps((model, function, argument, str(log), os.getpid())))

    def __enter__(self) -> IsolatedCall:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def waitables(self) -> tuple[Any, ...]:
        """What ``multiprocessing.connection.wait`` should watch."""
        # The pipe alone would not do: what the child forked may hold it open after a crash.
        return (self._receiver, self._pidfd)

    def next_event(self) -> Progress | Outcome:
        """Waits for the next phase or the end."""
        connection.wait(self.waitables)
        try:
            if self._receiver.poll(0):
                event: Progress | Outcome = self._receiver.recv()
                return event
        except EOFError:
            pass
        return Outcome(error=self._crash())

    def _hand_over(self, order: bytes) -> None:
        assert self._process.stdin is not None, "the child is started with a pipe"
        # A child that died already is reported by next_event, with its log.
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(order)

    def kill(self) -> None:
        """Ends the process and everything it started, at once; harmless when it is gone."""
        # Its process group is its own, and the pid stays ours until it is waited for.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            os.close(self._pidfd)
            self._receiver.close()

    def _crash(self) -> ExportFailed:
        # Not reaped here: kill() must still be able to name its process group.
        info = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        assert info is not None, "only a wait with WNOHANG gives nothing"
        status = info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
        tail = last_lines(self.log.read_text(errors="replace") if self.log.exists() else "")
        quoted = f"\nThe end of {self.log}:\n{tail}" if tail else f" Its log is {self.log}."
        return crash(self.model, "the export process", status, quoted)


def first_ready(calls: Iterable[IsolatedCall]) -> IsolatedCall:
    """Waits until one of several calls has something to say."""
    owners = {waitable: call for call in calls for waitable in call.waitables}
    return owners[connection.wait(list(owners))[0]]


def crash(model: str, what: str, status: int, more: str = "") -> ExportFailed:
    """What to say of a process that ended without a word; a negative status is a signal."""
    return ExportFailed(model, f"{what} {_ending(status)}", f"{_advice(status)}{more}".strip())


def _ending(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    return f"was killed by {signal.Signals(-status).name}"


def _advice(status: int) -> str:
    if status == -signal.SIGKILL:
        return "Often the kernel does so when memory runs out: try --jobs 1, or a larger machine."
    return ""


def _start(sender: int, log: Path) -> subprocess.Popen[bytes]:
    paths = [path for path in sys.path if path]
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(sender)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(sender,),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )


def run_child() -> None:
    """The child's whole life: takes its order from stdin and answers on the given descriptor."""
    sender = connection.Connection(int(sys.argv[1]), readable=False)
    model, function, argument, log, parent = pickle.load(sys.stdin.buffer)
    die_with(parent)
    sender.send(_outcome(model, function, argument, sender, log))
    sys.stdout.flush()
    # Nothing is left to do but to free gigabytes one object at a time.
    os._exit(0)


def _outcome(model: str, function: Work, argument: Any, sender: Any, log: str) -> Outcome:
    try:
        return Outcome(function(argument, lambda phase: sender.send(Progress(phase))))
    except FleetError as error:
        traceback.print_exc()
        return Outcome(error=error)
    # The supervisor's place: whatever a factory or an exporter raises ends this model only.
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return Outcome(
            error=ExportFailed(model, root_cause(error), f"The whole trace is in {log}.")
        )


def die_with(parent: int) -> None:
    """Asks the kernel to end this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
