"""What an exporter feeds a module, and what can be seen of a module that way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from repo_builder.causes import root_cause
from repo_builder.signature import ANONYMOUS, BATCH, Tensor
from repo_builder.sources.base import Checkpoint
from tritonfleet.errors import ExportFailed
from tritonfleet.server.tensors import NUMPY_TYPES

Sizes: TypeAlias = "dict[str, int]"
_SAMPLE_BATCH = 2
_SAMPLE_SIZES = (8, 12, 20, 28, 36)
_TRITON_TYPES = {np.dtype(numpy): name for name, numpy in NUMPY_TYPES.items() if name != "BYTES"}


class NoTensors(TypeError):
    """A forward that returns something else."""


def sample_sizes(checkpoint: Checkpoint) -> Sizes:
    """A size for each dynamic dimension, all different and none beyond what the model takes."""
    sizes = {BATCH: _SAMPLE_BATCH, **dict(zip(checkpoint.dimensions, _SAMPLE_SIZES, strict=False))}
    longest = checkpoint.longest
    bounded = {n: s if n == BATCH or longest is None else min(s, longest) for n, s in sizes.items()}
    return {name: max(checkpoint.sizes.get(name, (size,))) for name, size in bounded.items()}


def sample_arguments(
    checkpoint: Checkpoint, sizes: Mapping[str, int], seed: int = 0
) -> tuple[Any, ...]:
    """One request, as the module's forward takes it."""
    import torch

    sample = checkpoint.sample(sizes, np.random.default_rng(seed))
    return tuple(torch.from_numpy(value) for value in sample.values())


def check_ready(model: str, checkpoint: Checkpoint) -> None:
    """Raises ExportFailed for a module that would be exported as what it is not meant to be.

    Runs it once: a mistake in the declared inputs is told here in the module's own words, where an
    exporter would bury it.
    """
    # An exported program's module always says that it is in training; its graph is not.
    if checkpoint.module.training and checkpoint.program is None:
        hint = "Call .eval() on it: dropout and batch statistics would be exported."
        raise ExportFailed(model, "the module is in training mode", hint)
    sizes = sample_sizes(checkpoint)
    try:
        run(checkpoint.module, sample_arguments(checkpoint, sizes))
    except NoTensors as error:
        raise ExportFailed(model, str(error), "Return a tensor, or a tuple of them.") from error
    # The forward is the user's code: it may raise anything.
    except Exception as error:
        told = ", ".join(f"{name} {_told(f, sizes)}" for name, f in checkpoint.inputs.items())
        cause = f"its forward fails on a sample of the declared inputs ({told}): "
        hint = "Its forward must take the declared inputs, in their order, types and sizes."
        raise ExportFailed(model, cause + root_cause(error), hint) from error


def _told(field: Any, sizes: Mapping[str, int]) -> str:
    return f"{field.dtype}{[sizes.get(s, s) if isinstance(s, str) else s for s in field.shape]}"


def run(module: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """A module's outputs, always as a tuple."""
    import torch

    with torch.no_grad():
        result = module(*arguments)
    values = (result,) if isinstance(result, torch.Tensor) else result
    if not isinstance(values, tuple | list) or not all(isinstance(v, torch.Tensor) for v in values):
        raise NoTensors(f"its forward returns {type(result).__name__} and not just tensors")
    return tuple(values)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps to itself what exporters say besides their errors; TorchScript calls itself old."""
    import logging

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def observed_outputs(
    model: str, module: Callable[..., Any], checkpoint: Checkpoint
) -> tuple[Tensor, ...]:
    """The outputs' types and shapes, found by varying one dynamic dimension at a time.

    An axis that grows as one dimension does has its name; one that changes otherwise is dynamic
    and has none. Raises ExportFailed when the outputs are not the declared ones.
    """
    base = sample_sizes(checkpoint)
    first = _observe(model, module, checkpoint, base)
    shapes: list[list[int | str]] = [list(value.shape) for value in first]
    for name, size in base.items():
        # Half, for a step over every second element would hide a smaller change.
        other = min(checkpoint.sizes.get(name, (max(size // 2, 1),)))
        varied = _observe(model, module, checkpoint, {**base, name: other})
        for shape, before, now in zip(shapes, first, varied, strict=True):
            _mark(shape, (before.shape, now.shape), name, (size, other))
    return tuple(
        Tensor(name, _dtype(model, name, value), tuple(shape))
        for name, value, shape in zip(checkpoint.outputs, first, shapes, strict=True)
    )


def _observe(
    model: str, module: Callable[..., Any], checkpoint: Checkpoint, sizes: Sizes
) -> tuple[Any, ...]:
    try:
        values = run(module, sample_arguments(checkpoint, sizes))
    except Exception as error:
        told = ", ".join(f"{name}={size}" for name, size in sizes.items())
        cause = f"its forward fails at {told}: {root_cause(error)}"
        hint = "Write the sizes that it cannot change into 'inputs' as numbers."
        raise ExportFailed(model, cause, hint) from error
    if len(values) != len(checkpoint.outputs):
        cause = f"it gives {len(values)} outputs, declared are {len(checkpoint.outputs)}"
        raise ExportFailed(model, cause, "Return a tensor, or a tuple in the declared order.")
    return values


def _mark(shape: list[int | str], seen: tuple[Any, Any], name: str, sizes: tuple[int, int]) -> None:
    for axis, change in enumerate(zip(*seen, strict=True)):
        if change[0] != change[1]:
            same = change == sizes and isinstance(shape[axis], int)
            shape[axis] = name if same else ANONYMOUS


def _dtype(model: str, name: str, value: Any) -> str:
    told = str(value.dtype).removeprefix("torch.")
    found = next((t for dtype, t in _TRITON_TYPES.items() if dtype.name == told), None)
    if found is None:
        cause = f"output '{name}' is {told}, which neither numpy nor Triton serves in full"
        raise ExportFailed(model, cause, "Cast it to another type inside the model.")
    return found
