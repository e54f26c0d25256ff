"""How far an artifact may be from its original, by precision, and how that is judged.

Figures are in proportion to the largest value of an output: elementwise relative tolerances cry
wolf at every zero, and absolute ones depend on the model's scale. What arithmetic of 8 bits does
to single values says little about a model, so those are judged by the direction of each row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from tritonfleet.spec.export import ParitySpec, Precision

Array: TypeAlias = "np.ndarray[Any, Any]"
# An image's rows are no vectors of their own: such outputs are compared sample by sample.
_MOST_VECTOR_DIMS = 3


@dataclass(frozen=True, slots=True)
class Gate:
    """What is allowed; None is not judged."""

    precision: Precision
    tolerance: float | None
    min_cosine_similarity: float | None
    min_argmax_agreement: float | None
    min_top_k_agreement: float | None
    min_token_agreement: float | None
    top_k: int = 5
    scalar_tolerance: float = 0.1
    """In place of a cosine, for outputs of one number a row, which have no direction."""
    min_equal: float = 1.0
    """Share of equal elements of outputs that are no floats."""


# docs/parity.md tells where these come from.
_TOLERANCES: dict[Precision, float | None] = {
    "fp32": 1e-4, "fp16": 1e-2, "bf16": 3e-2, "int8": None,
}  # fmt: skip
_COSINES: dict[Precision, float | None] = {"int8": 0.98}
_TOKENS: dict[Precision, float | None] = {"fp32": 0.9}
_LOSSY_EQUAL = 0.98


def gate_for(spec: ParitySpec, precision: Precision) -> Gate:
    """What the fleet file asks for, and the precision's own measure where it says nothing."""
    given = spec.min_cosine_similarity
    judged = spec.tolerance is not None or given is not None
    return Gate(
        precision,
        tolerance=spec.tolerance if judged else _TOLERANCES[precision],
        min_cosine_similarity=given if judged else _COSINES.get(precision),
        min_argmax_agreement=spec.min_argmax_agreement,
        min_top_k_agreement=spec.min_top_k_agreement,
        min_token_agreement=(
            _TOKENS.get(precision) if spec.min_token_agreement is None else spec.min_token_agreement
        ),
        top_k=spec.top_k,
        min_equal=1.0 if precision == "fp32" else _LOSSY_EQUAL,
    )


class Difference(Exception):
    """Why two outputs cannot count as equal."""


def difference(reference: Array, value: Array) -> float:
    """max|difference| / max|reference| over the finite values.

    Raises Difference when shapes, types, or the places of infinities and NaNs differ.
    """
    _check_kind(reference, value)
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


def _check_kind(reference: Array, value: Array) -> None:
    if reference.shape != value.shape:
        raise Difference(f"has shape {list(value.shape)} instead of {list(reference.shape)}")
    if reference.dtype != value.dtype:
        raise Difference(f"is {value.dtype} instead of {reference.dtype}")


def cosine_similarity(reference: Array, value: Array) -> float:
    """The smallest cosine of a row of one to the same row of the other; 1.0 where both are zero."""
    one, other = _vectors(reference), _vectors(value)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    silent = (np.abs(one).max(axis=1, initial=0) == 0) & (np.abs(other).max(axis=1, initial=0) == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.where(silent, 1.0, np.sum(one * other, axis=1) / lengths)
    return float(np.min(np.nan_to_num(cosines, nan=0.0), initial=1.0))


def directional(output: Array) -> bool:
    """Whether an output's rows are vectors, of more than one number each."""
    return output.dtype.kind == "f" and output.ndim > 0 and output.shape[-1] > 1


def _vectors(output: Array) -> Array:
    wide = output.ndim > _MOST_VECTOR_DIMS
    rows = output.shape[0] if wide else int(np.prod(output.shape[:-1], dtype=np.int64))
    return output.astype(np.float64).reshape(rows, -1 if output.size else 0)


def same_argmax(reference: Array, value: Array) -> tuple[int, int]:
    """How many rows have their largest score at the same place, and of how many."""
    equal = reference.argmax(axis=-1) == value.argmax(axis=-1)
    return int(np.sum(equal)), int(np.size(equal))


def same_top_k(reference: Array, value: Array, k: int) -> tuple[float, int]:
    """The summed share of the k largest scores that both have, and over how many rows."""
    k = min(k, reference.shape[-1])
    tops = [
        np.argsort(-each.reshape(-1, each.shape[-1]), axis=-1, kind="stable")[:, :k]
        for each in (reference, value)
    ]
    shared = sum(
        len(set(one.tolist()) & set(other.tolist())) / k for one, other in zip(*tops, strict=True)
    )
    return shared, len(tops[0])


@dataclass(slots=True)
class Tally:
    """The figures of one candidate, added up output by output and case by case."""

    gate: Gate
    worst: float = 0.0
    worst_case: str = ""
    by_output: dict[str, float] = field(default_factory=dict)
    cosine: float | None = None
    argmax: list[float] = field(default_factory=lambda: [0.0, 0.0])
    top_k: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def judge(self, output: str, case: str, reference: Array, value: Array) -> None:
        """Adds one output of one case; Difference when it is out of bounds already."""
        if reference.dtype.kind not in "fc":
            self._judge_discrete(reference, value)
            return
        found = difference(reference, value)
        self._note(output, case, found)
        allowed = self.gate.tolerance
        if directional(reference):
            self._judge_direction(reference, value)
        elif allowed is None:
            allowed = self.gate.scalar_tolerance
        if allowed is not None and found > allowed:
            raise Difference(f"differs by {found:.2g}, allowed is {allowed:.2g}")

    def _note(self, output: str, case: str, found: float) -> None:
        self.by_output[output] = max(found, self.by_output.get(output, 0.0))
        if found > self.worst or not self.worst_case:
            self.worst, self.worst_case = max(found, self.worst), f"{output} at {case}"

    def _judge_discrete(self, reference: Array, value: Array) -> None:
        _check_kind(reference, value)
        equal = float(np.mean(reference == value)) if reference.size else 1.0
        if equal < self.gate.min_equal:
            raise Difference(f"has only {equal:.1%} of its elements right")

    def _judge_direction(self, reference: Array, value: Array) -> None:
        gate = self.gate
        if gate.min_cosine_similarity is not None:
            found = cosine_similarity(reference, value)
            self.cosine = found if self.cosine is None else min(found, self.cosine)
            if found < gate.min_cosine_similarity:
                wanted = gate.min_cosine_similarity
                raise Difference(
                    f"has a row of cosine similarity {found:.4f}, asked is {wanted:.4f}"
                )
        if gate.min_argmax_agreement is not None:
            _add(self.argmax, same_argmax(reference, value))
        if gate.min_top_k_agreement is not None:
            _add(self.top_k, same_top_k(reference, value, gate.top_k))

    @property
    def argmax_agreement(self) -> float | None:
        """Share of all rows whose largest score is at the same place."""
        return _share(self.argmax)

    @property
    def top_k_agreement(self) -> float | None:
        """Mean share of the k largest scores that are the same."""
        return _share(self.top_k)

    def close(self) -> None:
        """Judges what only all cases together can tell; Difference when it is too little."""
        for name, found, wanted in (
            ("argmax agreement", self.argmax_agreement, self.gate.min_argmax_agreement),
            (f"top-{self.gate.top_k} agreement", self.top_k_agreement,
             self.gate.min_top_k_agreement),
        ):  # fmt: skip
            if found is not None and wanted is not None and found < wanted:
                raise Difference(f"{name} over all cases is {found:.3f}, asked is {wanted:.3f}")


def _add(sums: list[float], found: tuple[float, int]) -> None:
    sums[0] += found[0]
    sums[1] += found[1]


def _share(sums: list[float]) -> float | None:
    return sums[0] / sums[1] if sums[1] else None
