"""Proves that an artifact computes what the original computes.

Real-looking inputs of several sizes went through the original once; each candidate must answer
them alike (gates.py), and its rows must not see each other, or batching would change answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from repo_builder.causes import root_cause
from repo_builder.judging.gates import Difference, Gate, Tally
from repo_builder.judging.reference import Array, Case, Recorded, Reference, Tensors
from repo_builder.judging.runners import OnnxRunner, Runner, run_case
from repo_builder.signature import BATCH, Signature, read_signature
from repo_builder.sources.base import Checkpoint, Predict
from tritonfleet.errors import ParityFailed
from tritonfleet.server.layout import ParityRecord
from tritonfleet.spec.export import ParitySpec

_SIZES_OF_UNNAMED = (1, 4, 9)
# Of a large batch, so many rows are asked alone.
_ROWS_ALONE = 8
_HINT = "Look for state, randomness or branches in its forward; loosen 'parity' if it is fine."


def cases(checkpoint: Checkpoint, spec: ParitySpec) -> Iterator[Case]:
    """Every batch size with every combination of the named sizes the model can take."""
    named = {
        name: _within(_sizes(checkpoint, spec, name), checkpoint.longest)
        for name in checkpoint.dimensions
    }
    if checkpoint.batched:
        named = {BATCH: spec.batch_sizes, **named}
    for sizes in itertools.product(*named.values()):
        yield Case(dict(zip(named, sizes, strict=True)))


def _sizes(checkpoint: Checkpoint, spec: ParitySpec, name: str) -> tuple[int, ...]:
    if "dimensions" in spec.model_fields_set and name in spec.dimensions:
        return spec.dimensions[name]
    return checkpoint.sizes.get(name) or spec.dimensions.get(name, _SIZES_OF_UNNAMED)


def _within(sizes: tuple[int, ...], longest: int | None) -> tuple[int, ...]:
    return tuple(dict.fromkeys(min(size, longest or size) for size in sizes))


def original(model: str, checkpoint: Checkpoint) -> Predict:
    """The original itself, with named arrays in and out."""
    if checkpoint.onnx is not None:
        # Unoptimised, so that what a session makes of the graph is held against what it says.
        signature = read_signature(model, checkpoint.onnx)
        return OnnxRunner(model, checkpoint.onnx, signature, optimize=False).run
    return lambda inputs: _eager(checkpoint, inputs)


def _eager(checkpoint: Checkpoint, inputs: Mapping[str, Array]) -> Tensors:
    import torch

    with torch.no_grad():
        given = (torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in checkpoint.inputs)
        result = checkpoint.module(*given)
    results = (result,) if isinstance(result, torch.Tensor) else tuple(result)
    values = [np.asarray(value.detach().cpu().numpy()) for value in results]
    return dict(zip(checkpoint.outputs, values, strict=True))


def record_reference(
    model: str, checkpoint: Checkpoint, spec: ParitySpec, folder: Path
) -> Reference:
    """Asks the original every case once; ParityFailed for a case that it cannot answer itself."""
    predict = original(model, checkpoint)

    def recorded() -> Iterator[Recorded]:
        for index, case in enumerate(cases(checkpoint, spec)):
            inputs = checkpoint.sample(case.sizes, np.random.default_rng(index))
            yield Recorded(case, inputs, _answer(model, predict, inputs, case))

    return Reference.record(folder, recorded())


def _answer(model: str, predict: Predict, inputs: Tensors, case: Case) -> Tensors:
    try:
        return predict(inputs)
    # The forward is the user's code: it may raise anything.
    except Exception as error:
        cause = f"the original itself fails at {case}: {root_cause(error)}"
        hint = "Set 'parity.dimensions' and 'parity.batch_sizes' to sizes that it takes."
        raise ParityFailed(model, cause, hint) from error


def check_parity(
    model: str, runner: Runner, reference: Reference, signature: Signature, gate: Gate
) -> ParityRecord:
    """What was found; ParityFailed names output, case and figure of what is out of bounds."""
    tally, count = Tally(gate), 0
    for recorded in reference:
        got = run_case(model, runner, recorded.inputs, str(recorded.case))
        _judge(model, tally, str(recorded.case), recorded.outputs, got)
        if signature.batchable:
            _check_rows(model, runner, recorded, got, gate)
        count += 1
    try:
        tally.close()
    except Difference as error:
        raise ParityFailed(model, str(error), _HINT) from None
    return _record(tally, count)


def _record(tally: Tally, count: int) -> ParityRecord:
    return ParityRecord(
        worst=tally.worst,
        tolerance=tally.gate.tolerance,
        worst_case=tally.worst_case,
        cases=count,
        precision=tally.gate.precision,
        cosine_similarity=tally.cosine,
        argmax_agreement=tally.argmax_agreement,
        top_k_agreement=tally.top_k_agreement,
        outputs=tally.by_output,
    )


def _judge(
    model: str, tally: Tally, case: str, expected: Mapping[str, Array], got: Mapping[str, Array]
) -> None:
    for name, reference in expected.items():
        try:
            tally.judge(name, case, reference, got[name])
        except Difference as error:
            raise ParityFailed(model, f"output '{name}' {error} at {case}", _HINT) from None


def _check_rows(
    model: str, runner: Runner, recorded: Recorded, together: Tensors, gate: Gate
) -> None:
    """Each row alone must give what it gave in company."""
    rows = len(next(iter(recorded.inputs.values())))
    if rows < 2:
        return
    tally = Tally(gate)
    for row in range(min(rows, _ROWS_ALONE)):
        where = f"{recorded.case}, row {row} alone"
        one = {name: value[row : row + 1] for name, value in recorded.inputs.items()}
        expected = {name: value[row : row + 1] for name, value in together.items()}
        _judge(model, tally, where, expected, run_case(model, runner, one, where))


def token_agreement(expected: Any, got: Any) -> float:
    """Share of generated tokens that are the same, [prompts, tokens] each."""
    width = min(expected.shape[1], got.shape[1])
    if expected.shape[1] != got.shape[1] and not width:
        return 0.0
    same = np.sum(expected[:, :width] == got[:, :width])
    return float(same / (expected.shape[0] * max(expected.shape[1], got.shape[1])))


def check_tokens(model: str, record: ParityRecord, found: float, gate: Gate) -> ParityRecord:
    """The record with the share of tokens that agree; ParityFailed when it is too small."""
    wanted = gate.min_token_agreement
    if wanted is not None and found < wanted:
        cause = f"only {found:.1%} of its generated tokens agree, asked are {wanted:.1%}"
        raise ParityFailed(model, cause, _HINT)
    return record.model_copy(update={"token_agreement": found})
