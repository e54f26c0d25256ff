"""Which requests a model is asked in its proof, and what the original answered to them.

One for each batch size that the configuration declares: the smallest with the smallest recorded
case, the others with the largest, whose rows are repeated or cut. Rows do not see each other, which
parity has shown, so each still has its known answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from repo_builder.judging.reference import Array, Recorded, Tensors
from repo_builder.scratch.order import ProofOrder
from tritonfleet.errors import ProofFailed
from tritonfleet.server.inference import inference_request
from tritonfleet.server.pbtxt import datatype

_SEQUENCE = 1


@dataclass(frozen=True, slots=True)
class Question:
    """One request and, where it is known, its answer."""

    batch_size: int
    """1 for a model without a batch dimension."""
    request: Any
    expected: Mapping[str, Array] = field(default_factory=dict)


def batch_sizes(config: Any) -> tuple[int, ...]:
    """The sizes that a configuration declares, ascending: 1, the preferred ones, the largest."""
    limit = config.max_batch_size
    # Triton refuses more than one row of a sequence at a time.
    if limit <= 0 or config.HasField("sequence_batching"):
        return (1,)
    preferred = config.dynamic_batching.preferred_batch_size
    return tuple(sorted({1, limit, *(size for size in preferred if size < limit)}))


def made_up(order: ProofOrder) -> bool:
    """Whether there are no real inputs at all."""
    return order.reference is None and not order.examples


def uncompared(order: ProofOrder) -> str | None:
    """Why no answer can be held against the original's although there is one; None if they can."""
    if order.reference is None or order.gate is None:
        return None
    config = order.config
    if config.HasField("sequence_batching") or config.model_transaction_policy.decoupled:
        return "its answers depend on more than one request"
    recorded = next(iter(order.reference), None)
    if recorded is None:
        return "its original answered no case"
    missing = [t.name for t in config.input if not t.optional and t.name not in recorded.inputs]
    if missing:
        return f"the original was never asked with its input '{missing[0]}'"
    if not _comparable(config, recorded.outputs):
        return "the original has none of its outputs"
    return None


def questions(order: ProofOrder) -> tuple[Question, ...]:
    """All requests, in ascending order of what they cost.

    Raises ProofFailed when an input cannot hold the values at hand.
    """
    smallest, largest = _ends(order)
    first, *rest = batch_sizes(order.config)
    pairs = [(first, smallest)]
    if rest or smallest is not largest:
        pairs += [(size, largest) for size in rest or (first,)]
    compared = order.gate is not None and uncompared(order) is None
    return tuple(_question(order, size, recorded, compared) for size, recorded in pairs)


def _ends(order: ProofOrder) -> tuple[Recorded | None, Recorded | None]:
    """The cheapest and the dearest recorded case; only these are ever in memory."""
    smallest: Recorded | None = None
    largest: Recorded | None = None
    for recorded in order.reference or ():
        if smallest is None or _cost(order, recorded) < _cost(order, smallest):
            smallest = recorded
        if largest is None or _cost(order, recorded) > _cost(order, largest):
            largest = recorded
    return smallest, largest


def _cost(order: ProofOrder, recorded: Recorded) -> tuple[float, int]:
    """Bytes of a row, then rows; all bytes where there are no rows."""
    size = sum(value.nbytes for value in recorded.inputs.values())
    rows = _row_count(recorded.inputs) if order.config.max_batch_size > 0 else 1
    return size / max(rows, 1), rows


def _row_count(tensors: Mapping[str, Array]) -> int:
    return min((len(value) for value in tensors.values() if value.ndim), default=1)


def _question(
    order: ProofOrder, batch_size: int, recorded: Recorded | None, compared: bool
) -> Question:
    config = order.config
    if recorded is None:
        inputs = _from_examples(config, order.examples or {}, batch_size)
        return Question(batch_size, _request(order, inputs, batch_size))
    inputs = _wanted(config, recorded.inputs)
    expected = _comparable(config, recorded.outputs) if compared else {}
    if config.max_batch_size > 0:
        rows = _row_count(recorded.inputs)
        inputs = _resized(inputs, rows, batch_size)
        expected = _resized(expected, rows, batch_size)
    return Question(batch_size, _request(order, inputs, batch_size), expected)


def _request(order: ProofOrder, inputs: Tensors, batch_size: int) -> Any:
    try:
        request = inference_request(order.config, inputs, batch_size, str(order.version))
    except (TypeError, ValueError) as error:
        hint = "Give 'export.examples' that fit its inputs."
        raise ProofFailed(order.model, f"its example inputs do not fit: {error}", hint) from error
    if order.config.HasField("sequence_batching"):
        request.parameters["sequence_id"].int64_param = _SEQUENCE
        request.parameters["sequence_start"].bool_param = True
        request.parameters["sequence_end"].bool_param = True
    return request


def _wanted(config: Any, inputs: Mapping[str, Array]) -> Tensors:
    names = {tensor.name for tensor in config.input}
    return {name: value for name, value in inputs.items() if name in names}


def _comparable(config: Any, outputs: Mapping[str, Array]) -> Tensors:
    names = {t.name for t in config.output if datatype(t.data_type) != "BYTES"}
    return {name: value for name, value in outputs.items() if name in names}


def _resized(tensors: Mapping[str, Array], rows: int, batch_size: int) -> Tensors:
    chosen = np.arange(batch_size) % max(rows, 1)
    return {name: value[chosen] for name, value in tensors.items()}


def _from_examples(config: Any, examples: Mapping[str, Array], batch_size: int) -> Tensors:
    found = {}
    for tensor in config.input:
        if tensor.name not in examples:
            continue
        rows = examples[tensor.name]
        # A text or a number a row, where the configuration has dims: 1.
        rows = rows.reshape(rows.shape + (1,) * (len(tensor.dims) + 1 - rows.ndim))
        batched = config.max_batch_size > 0
        found[tensor.name] = rows[np.arange(batch_size) % len(rows)] if batched else rows[0]
    return found
