"""Whether a ``ModelConfig`` declares the inputs and outputs that an artifact has.

Triton would serve a wrong type or shape without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from repo_builder.signature import ANONYMOUS, Signature, Tensor
from tritonfleet.server.pbtxt import datatype

Finding: TypeAlias = "tuple[str, str]"
"""A cause and a hint."""
_HINT = "The declaration must be the artifact's own: check serving.input, output and the templates."


def tensor_findings(config: Any, signature: Signature | None) -> Iterator[Finding]:
    """What is wrong with the declared tensors, by themselves and against the artifact."""
    for side, declared in (("input", config.input), ("output", config.output)):
        for name, count in Counter(tensor.name for tensor in declared).items():
            if count > 1:
                yield f"{side} '{name}' is declared {count} times", _HINT
        for tensor in declared:
            yield from _shape_findings(side, tensor)
    for name in sorted(made_by_triton(config) & {tensor.name for tensor in config.input}):
        cause = f"'{name}' is an input for clients, and one that Triton fills in itself"
        yield cause, "Take it out of one of the two."
    if signature is not None:
        yield from _artifact_findings(config, signature)


def made_by_triton(config: Any) -> set[str]:
    """Inputs that clients do not send: signals, states, and the shapes of ragged batches."""
    sequence = config.sequence_batching
    return {
        *(control.name for control in sequence.control_input),
        *(state.input_name for state in sequence.state),
        *(name for given in config.batch_input for name in given.target_name),
    }


def _shape_findings(side: str, tensor: Any) -> Iterator[Finding]:
    if any(size == 0 or size < -1 for size in tensor.dims) or not tensor.dims:
        hint = "A size is at least 1, or -1 where requests may choose it."
        yield f"{side} '{tensor.name}' has impossible dims {list(tensor.dims)}", hint
    elif tensor.HasField("reshape") and volumes(tensor.dims) != volumes(tensor.reshape.shape):
        shape = list(tensor.reshape.shape)
        cause = f"{side} '{tensor.name}' of {list(tensor.dims)} cannot be reshaped to {shape}"
        yield cause, "Both must hold equally many elements, with the -1 at the same places."


def volumes(sizes: Iterable[int]) -> list[int]:
    """Elements before, between and behind the dynamic dimensions."""
    volumes = [1]
    for size in sizes:
        volumes = [*volumes, 1] if size == -1 else [*volumes[:-1], volumes[-1] * size]
    return volumes


def _artifact_findings(config: Any, signature: Signature) -> Iterator[Finding]:
    """Declared against actual."""
    made = made_by_triton(config)
    states = {state.output_name for state in config.sequence_batching.state}
    joined = _without_batch(config)
    sides = (
        ("input", config.input, signature.inputs, made),
        ("output", config.output, signature.outputs, states),
    )
    for side, declared, actual, exempt in sides:
        by_name = {tensor.name: tensor for tensor in declared}
        for tensor in actual:
            found = by_name.pop(tensor.name, None)
            batched = config.max_batch_size > 0 and tensor.name not in joined
            if found is not None:
                yield from _pair_findings(side, found, tensor, batched)
            elif tensor.name not in exempt:
                yield f"{side} '{tensor.name}' of the artifact is not declared", _HINT
        for name in by_name:
            yield f"{side} '{name}' is declared and the artifact has none of that name", _HINT
    yield from _dimension_findings(config, signature, joined)


def _without_batch(config: Any) -> set[str]:
    """Tensors that hold the joined rows of a ragged batch."""
    return {
        *(tensor.name for tensor in config.input if tensor.allow_ragged_batch),
        *(name for given in config.batch_input for name in given.target_name),
        *(name for given in config.batch_output for name in given.target_name),
    }


def _pair_findings(side: str, found: Any, tensor: Tensor, batched: bool) -> Iterator[Finding]:
    if datatype(found.data_type) != tensor.dtype:
        cause = f"{side} '{tensor.name}' is declared {datatype(found.data_type)}"
        yield f"{cause} and is {tensor.dtype}", _HINT
    actual, inner = _actual_dims(tensor, batched), _inner_dims(found)
    if not _narrows(inner, actual):
        cause = f"{side} '{tensor.name}' is declared {list(inner)}"
        yield f"{cause} and is {list(actual)}", _HINT


def _actual_dims(tensor: Tensor, batched: bool) -> tuple[int, ...]:
    sizes = tensor.shape[1:] if batched else tensor.shape
    return tuple(size if isinstance(size, int) else -1 for size in sizes)


def _inner_dims(tensor: Any) -> tuple[int, ...]:
    """The dims that the backend sees."""
    return tuple(tensor.reshape.shape) if tensor.HasField("reshape") else tuple(tensor.dims)


def _narrows(declared: tuple[int, ...], actual: tuple[int, ...]) -> bool:
    """Whether they are the artifact's dims, some dynamic ones fixed perhaps."""
    if len(declared) != len(actual):
        return False
    return all(
        size == own or (own == -1 and size > 0) for size, own in zip(declared, actual, strict=True)
    )


def _dimension_findings(config: Any, signature: Signature, joined: set[str]) -> Iterator[Finding]:
    """One dynamic dimension of the artifact cannot be fixed at two sizes."""
    actual = {tensor.name: tensor for tensor in signature.tensors}
    fixed: dict[str, tuple[int, str]] = {}
    for found in (*config.input, *config.output):
        tensor, inner = actual.get(found.name), _inner_dims(found)
        if tensor is None:
            continue
        batched = config.max_batch_size > 0 and tensor.name not in joined
        for name, size in zip(tensor.shape[1 if batched else 0 :], inner, strict=False):
            if isinstance(name, int) or name == ANONYMOUS or size < 0:
                continue
            known, where = fixed.setdefault(name, (size, found.name))
            if known != size:
                cause = f"dimension '{name}' is fixed at {known} in '{where}' and at {size}"
                yield f"{cause} in '{found.name}'", "Give the same size in both."
