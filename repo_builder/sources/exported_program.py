"""Programs saved by torch.export.save; their inputs and dynamic dimensions are their own.

torch.export.load trusts its file. It unpickles sample inputs and odd weights without restriction,
evaluates the expressions of dynamic sizes as Python, calls whatever function of torch a node
names, and loads compiled libraries. ``program_check`` therefore reads the archive first, and only
what can hold no code reaches PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repo_builder.causes import root_cause
from repo_builder.signature import BATCH, Shape
from repo_builder.sources.base import (
    Checkpoint,
    CheckpointSource,
    Digest,
    InputField,
    SourceContext,
)
from repo_builder.sources.location import artifact_path, artifact_state
from repo_builder.sources.program_check import check_program
from tritonfleet.errors import ExportFailed, SourceUnavailable
from tritonfleet.server.tensors import NUMPY_TYPES
from tritonfleet.spec.sources import ExportedProgramSource as ExportedProgramSpec

_TRIED = (1, 4, 9)
_TORCH_NAMES = {numpy_name: ours for ours, numpy_name in NUMPY_TYPES.items()}


class ExportedProgramSource(CheckpointSource[ExportedProgramSpec]):
    """A .pt2 file."""

    def state(
        self, spec: ExportedProgramSpec, context: SourceContext, digest: Digest
    ) -> dict[str, Any] | None:
        """The file's digest."""
        return artifact_state(spec.path, context, digest)

    def fetch(self, spec: ExportedProgramSpec, context: SourceContext) -> Path | None:
        """The file."""
        return artifact_path(spec.path, context)

    def load(
        self, spec: ExportedProgramSpec, context: SourceContext, fetched: Path | None
    ) -> Checkpoint:
        """The program, and a module of it that takes its inputs one after the other."""
        from repo_builder.sources.program_module import ProgramModule

        model, path = context.model, fetched or artifact_path(spec.path, context)
        program = _program(model, path)
        values = _tensors(model, program)
        names = _renamed(model, "inputs", spec.inputs, program.graph_signature.user_inputs)
        outputs = _renamed(model, "outputs", spec.outputs, program.graph_signature.user_outputs)
        traced = dict(zip(names, values, strict=True))
        named = _dimensions(model, program, traced)
        inputs = {
            name: _field(value, named, example)
            for (name, value), example in zip(traced.items(), _examples(program), strict=True)
        }
        module = ProgramModule(program)
        sizes = _sizes(program, named)
        return Checkpoint(module, inputs, outputs, sizes=sizes, program=program)


def _program(model: str, path: Path) -> Any:
    import torch

    check_program(model, path)
    try:
        return torch.export.load(str(path))
    # A file of another release fails wherever the format has changed.
    except Exception as error:
        cause = f"{path} cannot be loaded by PyTorch {torch.__version__}: {root_cause(error)}"
        hint = "Save it anew, with torch.export.save of this release."
        raise SourceUnavailable(model, cause, hint) from error


def _tensors(model: str, program: Any) -> list[Any]:
    """What the program was traced with, in the order of its inputs; tensors and nothing else."""
    import torch

    nodes = {node.name: node.meta.get("val") for node in program.graph.nodes}
    values = [nodes.get(str(name)) for name in program.graph_signature.user_inputs]
    for name, value in zip(program.graph_signature.user_inputs, values, strict=True):
        if not isinstance(value, torch.Tensor):
            cause = f"its input '{name}' is no tensor, and Triton serves tensors only"
            raise ExportFailed(model, cause, "Export it again without that argument.")
        if str(value.dtype).removeprefix("torch.") not in _TORCH_NAMES:
            cause = f"its input '{name}' is {value.dtype}, for which requests cannot be made here"
            raise ExportFailed(model, cause, "Export it again with FP32 inputs.")
    return values


def _dimensions(model: str, program: Any, traced: dict[str, Any]) -> dict[str, str]:
    """A name for each symbol: what leads every input and output is the batch."""
    nodes = {node.name: node.meta.get("val") for node in program.graph.nodes}
    outputs = [nodes.get(str(name)) for name in program.graph_signature.user_outputs]
    leading = {
        str(v.shape[0]) if getattr(v, "ndim", 0) else "" for v in (*traced.values(), *outputs)
    }
    names: dict[str, str] = {}
    for name, value in traced.items():
        for axis, size in enumerate(value.shape):
            if isinstance(size, int):
                continue
            if not size.node.expr.is_symbol:
                cause = f"its input '{name}' has a dimension {size.node.expr}, made of others"
                raise ExportFailed(model, cause, "Export it again with independent dimensions.")
            batch = axis == 0 and leading == {str(size)}
            names.setdefault(str(size), BATCH if batch else f"{name}_{axis}")
    return names


def _renamed(model: str, side: str, wanted: tuple[str, ...], own: Any) -> tuple[str, ...]:
    names = tuple(str(name) for name in own)
    if wanted and len(wanted) != len(names):
        cause = f"it has {len(names)} {side}, {', '.join(names)}, and {len(wanted)} are named"
        raise ExportFailed(model, cause, f"Name all its {side}, in their order, or none.")
    return wanted or names


def _examples(program: Any) -> list[Any]:
    import torch

    return list(torch.utils._pytree.tree_leaves(program.example_inputs))


def _field(value: Any, named: dict[str, str], example: Any) -> InputField:
    """Integers are drawn up to the largest that the program was traced with."""
    shape: Shape = tuple(s if isinstance(s, int) else named[str(s)] for s in value.shape)
    dtype = _TORCH_NAMES[str(value.dtype).removeprefix("torch.")]
    if value.dtype.is_floating_point or not example.numel():
        return InputField(dtype, shape)
    return InputField(dtype, shape, "tokens", max(int(example.max()) + 1, 2))


def _sizes(program: Any, named: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """Sizes to check for each dimension besides the batch, within what the program allows."""
    ranges = {str(symbol): allowed for symbol, allowed in program.range_constraints.items()}
    found = {}
    for symbol, name in named.items():
        if name != BATCH and symbol in ranges:
            low, high = ranges[symbol].lower, ranges[symbol].upper
            tried = (int(min(max(size, low), high)) for size in _TRIED)
            found[name] = tuple(dict.fromkeys(tried))
    return found
