"""Runs one function in a fork of this process: it finds the loaded model in memory.

Exporters crash, take gigabytes and leave globals behind; the next one must find the process as it
was. A spawned process would have to load the weights again, or train the model again. Forking is
sound here because the process has one thread of Python, and the child keeps to one of torch.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar, cast

from repo_builder.causes import root_cause
from repo_builder.fork_server import die_with
from repo_builder.isolation import Outcome, crash
from tritonfleet.errors import ExportFailed, FleetError

ResultT = TypeVar("ResultT")


def run_forked(model: str, what: str, function: Callable[[], ResultT]) -> ResultT:
    """The function's result, or its error; ExportFailed when its process does not survive it."""
    receiver, sender = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        _live(parent, model, function, sender)
    os.close(sender)
    answer = _read(receiver)
    _, status = os.waitpid(child, 0)
    if not answer:
        raise crash(model, what, os.waitstatus_to_exitcode(status))
    outcome: Outcome = pickle.loads(answer)  # our own fork wrote it
    if outcome.error is not None:
        raise outcome.error
    return cast("ResultT", outcome.value)


def _live(parent: int, model: str, function: Callable[[], Any], sender: int) -> None:
    """The child's whole life; it never returns."""
    try:
        die_with(parent)
        _use_one_thread()
        with os.fdopen(sender, "wb") as pipe:
            pipe.write(pickle.dumps(_outcome(model, function)))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _use_one_thread() -> None:
    """The parent's worker threads do not exist here, and OpenMP would wait for them forever."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def _outcome(model: str, function: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(function())
    except FleetError as error:
        traceback.print_exc()
        return Outcome(error=error)
    # The supervisor's place: whatever an exporter or a runtime raises ends this attempt only.
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return Outcome(error=ExportFailed(model, root_cause(error)))


def _read(receiver: int) -> bytes:
    with os.fdopen(receiver, "rb") as pipe:
        return pipe.read()
