"""Runs one function in a process of its own, and lives through whatever happens to it.

Loading a model takes memory that Python never gives back, exporters crash, and the kernel kills
what is too large. All of that stays inside; what is printed goes to a log file.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, TypeAlias

from repo_builder.causes import last_lines, root_cause
from repo_builder.fork_server import ForkServer
from tritonfleet.errors import ExportFailed, FleetError

Report: TypeAlias = Callable[[str], None]
Work: TypeAlias = Callable[[Any, Report], Any]
_BUILD_PACKAGES = frozenset(
    {"onnx", "onnxruntime", "onnxscript", "tokenizers", "torch", "transformers"}
)


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
    """``function(argument, report)`` running in a process of its own; use it in a ``with``."""

    def __init__(
        self, server: ForkServer, model: str, function: Work, argument: Any, log: Path
    ) -> None:
        self.model, self.log = model, log
        self._server = server
        log.parent.mkdir(parents=True, exist_ok=True)
        receiver, sender = os.pipe()
        self._receiver = connection.Connection(receiver, writable=False)
        try:
            order = pickle.dumps((model, function, argument, str(log)))
            self._fork = server.start(order, sender, log)
        finally:
            os.close(sender)

    def __enter__(self) -> IsolatedCall:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def waitables(self) -> tuple[Any, ...]:
        """What ``multiprocessing.connection.wait`` should watch."""
        # The pipe alone would not do: what the child forked may hold it open after a crash.
        return (self._receiver, self._fork.pidfd)

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

    def kill(self) -> None:
        """Ends the process and everything it started, at once; harmless when it is gone."""
        if not self._receiver.closed:
            self._server.kill(self._fork)
            os.close(self._fork.pidfd)
            self._receiver.close()

    def _crash(self) -> ExportFailed:
        status = self._server.status(self._fork)
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


def fork_server(log: Path) -> ForkServer:
    """The server that isolated calls run on."""
    return ForkServer(log, f"{__name__}:run_child")


def run_child(order: int, answer: int) -> None:
    """A child's whole life: takes its order from one descriptor and answers on the other."""
    sender = connection.Connection(answer, readable=False)
    with os.fdopen(order, "rb") as pipe:
        model, function, argument, log = pickle.load(pipe)
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
        hint = f"{_remedy(error)}The whole trace is in {log}."
        return Outcome(error=ExportFailed(model, root_cause(error), hint))


def _remedy(error: Exception) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if (missing or "").partition(".")[0] in _BUILD_PACKAGES:
        return "This installation serves only; to build: pip install 'tritonfleet[build]'. "
    return ""
