"""Proves that an artifact computes what the original computes.

Real-looking inputs of several sizes go through both; the worst difference, in proportion to the
largest value, must stay within the tolerance. Elementwise relative tolerances cry wolf at every
zero, and absolute ones depend on the model's scale. Rows must not see each other, or batching
would change answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from repo_builder.causes import root_cause
from repo_builder.signature import BATCH, Signature
from repo_builder.sources.base import Checkpoint
from tritonfleet.errors import ParityFailed
from tritonfleet.server.layout import ParityRecord
from tritonfleet.spec.fleet import ParitySpec

Array: TypeAlias = "np.ndarray[Any, Any]"
_SIZES_OF_UNNAMED = (1, 4, 9)
_HINT = (
    "Look for state, randomness or branches in its forward; raise parity.tolerance if it is fine."
)


@dataclass(frozen=True, slots=True)
class Case:
    """Sizes of the named dimensions."""

    sizes: Mapping[str, int]

    def __str__(self) -> str:
        return ", ".join(f"{name}={size}" for name, size in self.sizes.items()) or "fixed sizes"


class Difference(Exception):
    """Why two outputs cannot count as equal."""


def check_parity(
    model: str, checkpoint: Checkpoint, artifact: Path, signature: Signature, spec: ParitySpec
) -> ParityRecord:
    """The worst difference found; ParityFailed names output, case and difference."""
    session = _session(model, artifact)
    worst, worst_case, count = 0.0, "", 0
    for case in cases(checkpoint, spec):
        inputs = checkpoint.sample(case.sizes, np.random.default_rng(count))
        expected = _original(model, checkpoint, inputs, case)
        got = _run(model, session, inputs, case)
        for name, reference, value in zip(checkpoint.outputs, expected, got, strict=True):
            found = _judge(model, name, str(case), reference, value, spec.tolerance)
            if found > worst or not worst_case:
                worst, worst_case = max(found, worst), f"{name} at {case}"
        if signature.batchable:
            _check_rows(model, session, inputs, got, case, spec.tolerance)
        count += 1
    return ParityRecord(worst=worst, tolerance=spec.tolerance, worst_case=worst_case, cases=count)


def cases(checkpoint: Checkpoint, spec: ParitySpec) -> Iterator[Case]:
    """Every batch size with every combination of the named sizes the model can take."""
    named = {
        name: _within(spec.dimensions.get(name, _SIZES_OF_UNNAMED), checkpoint.longest)
        for name in checkpoint.dimensions
    }
    if checkpoint.batched:
        named = {BATCH: spec.batch_sizes, **named}
    for sizes in itertools.product(*named.values()):
        yield Case(dict(zip(named, sizes, strict=True)))


def _within(sizes: tuple[int, ...], longest: int | None) -> tuple[int, ...]:
    return tuple(dict.fromkeys(min(size, longest or size) for size in sizes))


def difference(reference: Array, value: Array) -> float:
    """max|difference| / max|reference| over the finite values.

    Raises Difference when shapes, types, or the places of infinities and NaNs differ.
    """
    if reference.shape != value.shape:
        raise Difference(f"has shape {list(value.shape)} instead of {list(reference.shape)}")
    if reference.dtype != value.dtype:
        raise Difference(f"is {value.dtype} instead of {reference.dtype}")
    if reference.dtype.kind not in "fc":
        reference, value = reference.astype(np.float64), value.astype(np.float64)
    finite = np.isfinite(reference)
    if not np.array_equal(reference[~finite], value[~finite], equal_nan=True) or not np.array_equal(
        finite, np.isfinite(value)
    ):
        raise Difference("is infinite or not a number in other places")
    with np.errstate(invalid="ignore"):
        distance = float(np.max(np.abs(reference - value), initial=0.0, where=finite))
    scale = float(np.max(np.abs(reference), initial=0.0, where=finite))
    return distance / scale if scale else (0.0 if distance == 0.0 else float("inf"))


def _judge(
    model: str, output: str, case: str, reference: Array, value: Array, tolerance: float
) -> float:
    try:
        found = difference(reference, value)
    except Difference as error:
        raise ParityFailed(model, f"output '{output}' {error} at {case}", _HINT) from None
    if found > tolerance:
        cause = f"output '{output}' differs by {found:.2g} at {case}, allowed is {tolerance:.2g}"
        raise ParityFailed(model, cause, _HINT)
    return found


def _check_rows(
    model: str, session: Any, inputs: Mapping[str, Array], batch: list[Array], case: Case,
    tolerance: float,
) -> None:  # fmt: skip
    """Each row alone must give what it gave in company."""
    rows = len(next(iter(inputs.values())))
    if rows < 2:
        return
    names = [output.name for output in session.get_outputs()]
    for row in range(rows):
        alone = _run(model, session, {n: v[row : row + 1] for n, v in inputs.items()}, case)
        for name, together, single in zip(names, batch, alone, strict=True):
            where = f"{case}, row {row} alone"
            _judge(model, name, where, together[row : row + 1], single, tolerance)


def _session(model: str, artifact: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(artifact), options, providers=["CPUExecutionProvider"]
        )
    # onnxruntime's exceptions have no common base that it exports.
    except Exception as error:
        cause = f"ONNX Runtime does not load the artifact: {root_cause(error)}"
        raise ParityFailed(model, cause, "Try another 'export.opset'.") from error


def _run(model: str, session: Any, inputs: Mapping[str, Array], case: Case) -> list[Array]:
    try:
        return [np.asarray(value) for value in session.run(None, dict(inputs))]
    except Exception as error:
        cause = f"the artifact fails at {case}: {root_cause(error)}"
        hint = "A size it was not made for? Set 'parity.dimensions' and 'parity.batch_sizes'."
        raise ParityFailed(model, cause, hint) from error


def _original(
    model: str, checkpoint: Checkpoint, inputs: Mapping[str, Array], case: Case
) -> list[Array]:
    import torch

    try:
        with torch.no_grad():
            result = checkpoint.module(*(torch.from_numpy(value) for value in inputs.values()))
    # The forward is the user's code: it may raise anything.
    except Exception as error:
        cause = f"the original itself fails at {case}: {root_cause(error)}"
        hint = "Set 'parity.dimensions' and 'parity.batch_sizes' to sizes that it takes."
        raise ParityFailed(model, cause, hint) from error
    results = (result,) if isinstance(result, torch.Tensor) else tuple(result)
    return [np.asarray(value.detach().cpu().numpy()) for value in results]
