"""PyTorch to ONNX, through ``torch.onnx.export(dynamo=True)`` and nothing else.

TorchScript would trace past data-dependent branches and bake one of them in without a word. What
the exporter returns is cleaned so that the same module gives the same bytes in every process, and
then checked: the operator set, the names and the dynamic axes must be the ones asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from repo_builder.causes import root_cause
from repo_builder.exporters.base import Exporter
from repo_builder.signature import BATCH
from repo_builder.sources.base import Checkpoint
from tritonfleet.errors import ExportFailed
from tritonfleet.spec.fleet import ExportSpec

# The newest IR that ONNX Runtime 1.18 (Triton 24.05) still loads; onnx itself would write newer.
_IR_VERSION = 10
# Protobuf ends at 2 GiB; half of it leaves room for the graph.
_LARGEST_SINGLE_FILE = 1 << 30
_SAMPLE_BATCH = 2
_SAMPLE_SIZES = (8, 12, 20, 28, 36)
_HINTS = (
    (
        ("data-dependent", "datadependent"),
        "Its forward branches on values: use torch.where or torch.cond instead.",
    ),
    (
        ("no onnx function found",),
        "An operator has no ONNX form: rewrite that step, or try another 'export.opset'.",
    ),
    (
        ("static shape", "specialized", "constraints violated", "inferred ranges"),
        "The model fixes a dimension declared as dynamic: write its size into 'inputs'.",
    ),
    (
        ("takes", "unexpected keyword", "positional argument"),
        "Its forward must take the declared inputs, in their order.",
    ),
)


class OnnxExporter(Exporter):
    """Writes ``model.onnx``, with ``model.onnx.data`` beside it above 1 GiB."""

    backend: ClassVar[str] = "onnxruntime"
    artifact_name: ClassVar[str] = "model.onnx"

    def export(self, model: str, checkpoint: Checkpoint, spec: ExportSpec, folder: Path) -> Path:
        """The checked artifact's path."""
        program = _program(model, checkpoint, spec)
        _clean(program.model)
        _check_promises(model, program.model, checkpoint, spec)
        path = folder / self.artifact_name
        large = _weight_bytes(program.model) > _LARGEST_SINGLE_FILE
        program.save(str(path), external_data=large)
        _check_file(model, path, full=not large)
        return path


def _program(model: str, checkpoint: Checkpoint, spec: ExportSpec) -> Any:
    import torch

    sizes = {BATCH: _SAMPLE_BATCH, **dict(zip(checkpoint.dimensions, _SAMPLE_SIZES, strict=False))}
    sample = checkpoint.sample(_bounded(sizes, checkpoint.longest), np.random.default_rng(0))
    arguments = tuple(torch.from_numpy(value) for value in sample.values())
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                checkpoint.module,
                arguments,
                dynamo=True,
                opset_version=spec.opset,
                verbose=False,
                dynamic_shapes=tuple(_dynamic(field.shape) for field in checkpoint.inputs.values()),
                input_names=list(checkpoint.inputs),
                output_names=list(checkpoint.outputs),
            )
    # torch has no common base for what the exporter raises: a dozen types, and the user's own.
    except Exception as error:
        cause = root_cause(error)
        raise ExportFailed(model, cause, _hint(cause)) from error


def _bounded(sizes: dict[str, int], longest: int | None) -> dict[str, int]:
    """The sizes, none beyond what the model takes."""
    return {
        name: size if name == BATCH or longest is None else min(size, longest)
        for name, size in sizes.items()
    }


def _dynamic(shape: Iterable[int | str]) -> dict[int, str]:
    return {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}


def _hint(cause: str) -> str:
    text = cause.lower()
    for signs, hint in _HINTS:
        if any(sign in text for sign in signs):
            return hint
    return ""


def _clean(graph_model: Any) -> None:
    """Drops source paths and stack traces, and frees the names of inputs and outputs.

    The exporter calls an inner value after its operator, such as 'embedding'; an output of that
    name makes the file invalid, and nobody says so until it is loaded.
    """
    graph = graph_model.graph
    outside = (*graph.inputs, *graph.outputs)
    identities = {id(value) for value in outside}
    reserved = {value.name for value in outside}
    for node in graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in identities and value.name in reserved:
                value.name = f"{value.name}__inner"
    for holder in (graph_model, graph, *outside, *graph.initializers.values()):
        holder.metadata_props.clear()
    graph_model.ir_version = min(graph_model.ir_version, _IR_VERSION)


def _check_promises(model: str, graph_model: Any, checkpoint: Checkpoint, spec: ExportSpec) -> None:
    got = graph_model.opset_imports.get("")
    if got != spec.opset:
        cause = f"opset {spec.opset} was asked for and the exporter gave {got}"
        raise ExportFailed(model, cause, f"Set export.opset to {got}.")
    inputs, outputs = graph_model.graph.inputs, graph_model.graph.outputs
    if [value.name for value in inputs] != list(checkpoint.inputs):
        cause = f"the graph takes {', '.join(v.name for v in inputs)}"
        hint = f"Declared are {', '.join(checkpoint.inputs)}, in the order of its forward."
        raise ExportFailed(model, cause, hint)
    if [value.name for value in outputs] != list(checkpoint.outputs):
        cause = f"the graph gives {len(outputs)} outputs, declared are {len(checkpoint.outputs)}"
        raise ExportFailed(model, cause, "Return a tensor, or a tuple in the declared order.")
    for value in inputs:
        _check_axes(model, value, checkpoint.inputs[value.name].shape)


def _check_axes(model: str, value: Any, declared: tuple[int | str, ...]) -> None:
    got = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
    if got != declared:
        cause = f"input '{value.name}' became {list(got)} where {list(declared)} was declared"
        raise ExportFailed(model, cause, "Declare the shape that its forward really takes.")


def _weight_bytes(graph_model: Any) -> int:
    initializers = graph_model.graph.initializers.values()
    return sum(value.const_value.nbytes for value in initializers if value.const_value is not None)


def _check_file(model: str, path: Path, full: bool) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportFailed(model, f"the exported file is invalid: {root_cause(error)}") from error
