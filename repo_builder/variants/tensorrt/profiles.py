"""Optimisation profiles: for each input the smallest, best and largest shape of an engine.

Pure. What the fleet file does not declare is derived: batches from 1 to ``max_batch_size``, and
sequences from 1 to the longest.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from repo_builder.signature import ANONYMOUS, Signature, Tensor
from tritonfleet.errors import VariantFailed, did_you_mean
from tritonfleet.server.engines import Profile
from tritonfleet.spec.export import DimensionRange

Sizes: TypeAlias = "tuple[int, ...]"
Ranges: TypeAlias = "Mapping[str, DimensionRange]"

_USUAL_SEQUENCE = 64
_Operation: TypeAlias = Callable[[int, int], int]
_BOTH_GROW: dict[type[ast.operator], _Operation] = {ast.Add: operator.add, ast.Mult: operator.mul}
# With a number on the right these grow with what is on the left, so bounds stay bounds.
_LEFT_GROWS: dict[type[ast.operator], _Operation] = {
    ast.Sub: operator.sub,
    ast.FloorDiv: operator.floordiv,
}


def optimization_profiles(
    model: str, signature: Signature, declared: Sequence[Ranges], max_batch_size: int,
    longest: int | None,
) -> tuple[Profile, ...]:  # fmt: skip
    """One profile for each declared, or one that covers all; VariantFailed says what to declare."""
    derived = _derived(signature, max_batch_size, longest)
    known = _names(signature)
    for ranges in declared:
        _check_names(model, ranges, known)
    complete = [{**derived, **ranges} for ranges in declared or ({},)]
    _check_batch(model, signature, complete, max_batch_size)
    return tuple(
        {tensor.name: _shapes(model, tensor, ranges) for tensor in signature.inputs}
        for ranges in complete
    )


def fitting_profile(profiles: Sequence[Profile], shapes: Mapping[str, Sequence[int]]) -> int | None:
    """The first profile that takes these shapes."""
    for index, profile in enumerate(profiles):
        if all(_within(shape, profile[name]) for name, shape in shapes.items()):
            return index
    return None


def _within(shape: Sequence[int], bounds: tuple[Sizes, Sizes, Sizes]) -> bool:
    smallest, _, largest = bounds
    return len(shape) == len(smallest) and all(
        low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
    )


def _batch(signature: Signature) -> str | None:
    """The name of the dimension that requests are batched along."""
    return str(signature.inputs[0].shape[0]) if signature.batchable else None


def _names(signature: Signature) -> tuple[str, ...]:
    """Every dynamic dimension of an input, and what those that are computed are computed from."""
    found: list[str] = []
    for tensor in signature.inputs:
        for size in tensor.shape:
            if isinstance(size, str) and size != ANONYMOUS:
                found += [size, *_variables(size)]
    return tuple(dict.fromkeys(found))


def _derived(signature: Signature, max_batch_size: int, longest: int | None) -> Ranges:
    """Ranges of the dimensions whose meaning is known."""
    ranges: dict[str, DimensionRange] = {}
    batch = _batch(signature)
    for name in _names(signature):
        if name == batch and max_batch_size:
            ranges[name] = DimensionRange(min=1, opt=max_batch_size, max=max_batch_size)
        elif name.isidentifier() and "batch" not in name and name != batch and longest:
            opt = min(_USUAL_SEQUENCE, longest)
            ranges[name] = DimensionRange(min=1, opt=opt, max=longest)
    return ranges


def _check_names(model: str, ranges: Ranges, known: Sequence[str]) -> None:
    for name in ranges:
        if name not in known:
            guess = did_you_mean(name, known)
            hint = f"Did you mean '{guess}'?" if guess else f"It has {', '.join(known) or 'none'}."
            cause = f"a profile names dimension '{name}', which no input has"
            raise VariantFailed(model, cause, hint)


def _check_batch(
    model: str, signature: Signature, profiles: Sequence[Ranges], max_batch_size: int
) -> None:
    batch = _batch(signature)
    if batch is None or not max_batch_size:
        return
    largest = max(ranges[batch].max for ranges in profiles)
    if largest < max_batch_size:
        cause = f"its profiles end at batches of {largest}, and max_batch_size is {max_batch_size}"
        raise VariantFailed(model, cause, f"Raise the max of '{batch}', or lower max_batch_size.")


def _shapes(model: str, tensor: Tensor, ranges: Ranges) -> tuple[Sizes, Sizes, Sizes]:
    bounds = [_bounds(model, tensor, size, ranges) for size in tensor.shape]
    return (
        tuple(each[0] for each in bounds),
        tuple(each[1] for each in bounds),
        tuple(each[2] for each in bounds),
    )


def _bounds(model: str, tensor: Tensor, size: int | str, ranges: Ranges) -> tuple[int, int, int]:
    if isinstance(size, int):
        return size, size, size
    if size == ANONYMOUS:
        cause = f"input '{tensor.name}' has a dynamic dimension without a name"
        raise VariantFailed(model, cause, "Name it in the ONNX file, so that a profile can.")
    if size in ranges:
        return ranges[size].min, ranges[size].opt, ranges[size].max
    variables = _variables(size)
    unknown = [name for name in variables or (size,) if name not in ranges]
    if unknown:
        cause = f"how large '{unknown[0]}' of input '{tensor.name}' gets is not known"
        example = f"{{{unknown[0]}: {{min: 1, opt: 16, max: 64}}}}"
        raise VariantFailed(model, cause, f"Declare it in the variant: profiles: [{example}].")
    lows, opts, highs = (
        {name: getattr(ranges[name], bound) for name in variables}
        for bound in ("min", "opt", "max")
    )
    return _value(size, lows), _value(size, opts), _value(size, highs)


def _variables(size: str) -> tuple[str, ...]:
    """The names in a computed dimension such as 'past + sequence'; none if it is no such thing."""
    try:
        tree = ast.parse(size, mode="eval").body
        _compute(tree, lambda _: 1)
    except (SyntaxError, ValueError):
        return ()
    return tuple(dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)))


def _value(size: str, values: Mapping[str, int]) -> int:
    return _compute(ast.parse(size, mode="eval").body, values.__getitem__)


def _compute(node: ast.expr, value_of: Callable[[str], int]) -> int:
    """The value of sums, products and the like; ValueError for what bounds do not pass through."""
    match node:
        case ast.Name(id=name):
            return value_of(name)
        case ast.Constant(value=int(number)) if number > 0:
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BOTH_GROW:
            return _BOTH_GROW[type(op)](_compute(left, value_of), _compute(right, value_of))
        case ast.BinOp(left=left, op=op, right=ast.Constant(value=int(number))) if (
            type(op) in _LEFT_GROWS and number > 0
        ):
            return _LEFT_GROWS[type(op)](_compute(left, value_of), number)
    raise ValueError(ast.dump(node))
