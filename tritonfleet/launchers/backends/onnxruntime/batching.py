"""Turns the requests of one execute into as few session runs as possible, and back.

Knows arrays and which of them may be stacked; not Triton's Python API, and not ONNX Runtime: a run
is a function that is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# NamedTuple and not dataclass: importing dataclasses alone costs 4 ms of every cold start.

Arrays: TypeAlias = "dict[str, NDArray[Any]]"
Run: TypeAlias = "Callable[[Sequence[str], Arrays], Sequence[NDArray[Any]]]"


class Work(NamedTuple):
    """What one request brings, and the names of the outputs it wants back."""

    inputs: Arrays
    outputs: tuple[str, ...]


class RequestFailed(Exception):
    """One request that cannot be answered; ``invalid`` when the request itself is to blame."""

    def __init__(self, message: str, invalid: bool = False) -> None:
        super().__init__(message, invalid)
        self.message, self.invalid = message, invalid


Outcome: TypeAlias = "Arrays | RequestFailed"


def answer(works: Sequence[Work | RequestFailed], run: Run, *, batched: bool) -> list[Outcome]:
    """One outcome for each work, in order; what failed before it came here stays failed.

    Works whose inputs agree in all but the first dimension share one run when ``batched``.
    """
    outcomes: list[Outcome] = [work if isinstance(work, RequestFailed) else {} for work in works]
    for group in _groups(works, batched):
        members = [work for work in (works[i] for i in group) if isinstance(work, Work)]
        for index, outcome in zip(group, _run_group(members, run), strict=True):
            outcomes[index] = outcome
    return outcomes


def _groups(works: Sequence[Work | RequestFailed], batched: bool) -> list[list[int]]:
    found: dict[object, list[int]] = {}
    for index, work in enumerate(works):
        if isinstance(work, Work):
            found.setdefault(_stacking_key(work) if batched else index, []).append(index)
    return list(found.values())


def _stacking_key(work: Work) -> object:
    return tuple(
        (name, array.dtype.str, array.shape[1:]) for name, array in sorted(work.inputs.items())
    )


def _run_group(works: Sequence[Work], run: Run) -> list[Outcome]:
    if len(works) > 1:
        try:
            return _run_stacked(works, run)
        except Exception:  # noqa: BLE001 - whatever it was, only the guilty request may fail
            return [_run_alone(work, run) for work in works]
    return [_run_alone(work, run) for work in works]


def _run_alone(work: Work, run: Run) -> Outcome:
    try:
        return dict(zip(work.outputs, run(work.outputs, work.inputs), strict=True))
    except Exception as error:  # noqa: BLE001 - becomes this request's answer
        return RequestFailed(readable(error), invalid=_blames_request(error))


def _run_stacked(works: Sequence[Work], run: Run) -> list[Outcome]:
    wanted = tuple(dict.fromkeys(name for work in works for name in work.outputs))
    stacked = {
        name: np.concatenate([work.inputs[name] for work in works]) for name in works[0].inputs
    }
    results = dict(zip(wanted, run(wanted, stacked), strict=True))
    rows = [_rows(work) for work in works]
    if any(array.shape[:1] != (sum(rows),) for array in results.values()):
        raise RequestFailed("an output has no batch dimension, so it cannot be shared out")
    outcomes: list[Outcome] = []
    start = 0
    for work, count in zip(works, rows, strict=True):
        outcomes.append({name: results[name][start : start + count] for name in work.outputs})
        start += count
    return outcomes


def _rows(work: Work) -> int:
    return len(next(iter(work.inputs.values())))


def _blames_request(error: Exception) -> bool:
    # By name: ONNX Runtime's exceptions share no base class but Exception.
    return isinstance(error, ValueError) or type(error).__name__ == "InvalidArgument"


_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:Load model from .*? failed: ?)?")
_LONGEST = 2000
_SOURCE_LOCATION = re.compile(r"/\S+\.(?:h|cc|cpp):\d+ .*?\) ")


def readable(error: Exception) -> str:
    """An ONNX Runtime error without its code, file names and C++ source locations."""
    text = _SOURCE_LOCATION.sub("", _PREFIX.sub("", str(error)))
    return bounded(" ".join(text.split()) or type(error).__name__)


def bounded(text: str) -> str:
    """At most 2 000 characters: beyond some 8 000, gRPC replaces the status by one of its own."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."
