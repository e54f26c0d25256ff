"""PyTorch to ONNX, through ``torch.onnx.export(dynamo=True)`` and nothing else.

TorchScript would trace past data-dependent branches and bake one of them in without a word: it has
an exporter of its own. What this one returns is cleaned so that the same module gives the same
bytes in every process, and then checked: the operator set, the names and the dynamic axes must be
the ones asked for.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from repo_builder import onnx_files
from repo_builder.causes import root_cause
from repo_builder.exporters.base import Exporter
from repo_builder.exporters.sample import check_ready, quiet, sample_arguments, sample_sizes
from repo_builder.exporters.tracing import is_script
from repo_builder.signature import Signature, read_signature
from repo_builder.sources.base import Checkpoint
from tritonfleet.errors import ExportFailed
from tritonfleet.spec.export import ExportSpec

# The newest IR that ONNX Runtime 1.18 (Triton 24.05) still loads; onnx itself would write newer.
_IR_VERSION = 10
_HINTS = (
    (
        ("data-dependent", "datadependent"),
        "Its forward branches on values: use torch.where or torch.cond instead, or serve its "
        "Python code with 'source: {kind: python}'.",
    ),
    (
        ("no onnx function found",),
        "An operator has no ONNX form: rewrite that step, try another 'export.opset', or let "
        "'export.fallbacks: [onnx_torchscript, pytorch]' try other ways.",
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
_OTHER_WAYS = "'export.fallbacks: [onnx_torchscript, pytorch]' would try other ways."


class OnnxExporter(Exporter):
    """Writes ``model.onnx``, with ``model.onnx.data`` beside it above 1 GiB."""

    backend: ClassVar[str] = "onnxruntime"
    artifact_name: ClassVar[str] = "model.onnx"

    def export(self, model: str, checkpoint: Checkpoint, spec: ExportSpec, folder: Path) -> Path:
        """The checked artifact's path."""
        if checkpoint.onnx is not None:
            return copy_onnx(model, checkpoint.onnx, folder)
        program = _program(model, checkpoint, spec)
        _name_axes(program.model, checkpoint)
        _clean(program.model)
        _check_promises(model, program.model, checkpoint, spec)
        path = folder / self.artifact_name
        large = _weight_bytes(program.model) > onnx_files.LARGEST_SINGLE_FILE
        program.save(str(path), external_data=large)
        check_file(model, path)
        return path

    def signature(self, model: str, artifact: Path, checkpoint: Checkpoint) -> Signature:
        """As the file says."""
        return read_signature(model, artifact)


def copy_onnx(model: str, path: Path, folder: Path) -> Path:
    """An existing file and what lies beside it, as a version folder's artifact.

    Raises ExportFailed for what is missing, damaged or no valid model.
    """
    try:
        copied = onnx_files.copy(path, folder)
    except onnx_files.UnusableFile as error:
        raise ExportFailed(
            model, str(error), "Copy the file with all that lies beside it."
        ) from error
    check_file(model, copied)
    return copied


def check_file(model: str, path: Path) -> None:
    """Raises ExportFailed unless the written file is valid."""
    try:
        onnx_files.check(path)
    except onnx_files.UnusableFile as error:
        raise ExportFailed(model, str(error)) from error


def _program(model: str, checkpoint: Checkpoint, spec: ExportSpec) -> Any:
    names = {"input_names": list(checkpoint.inputs), "output_names": list(checkpoint.outputs)}
    options = {"dynamo": True, "opset_version": spec.opset, "verbose": False, **names}
    if checkpoint.program is not None:
        return _exported(model, checkpoint.program, (), options)
    check_ready(model, checkpoint)
    arguments = sample_arguments(checkpoint, sample_sizes(checkpoint))
    module = checkpoint.module
    if is_script(checkpoint):
        module = _from_script(model, module, arguments)
    shapes = tuple(dynamic_axes(field.shape) for field in checkpoint.inputs.values())
    options["dynamic_shapes"] = _as_taken(module, shapes)
    return _exported(model, module, arguments, options)


def _from_script(model: str, script: Any, arguments: tuple[Any, ...]) -> Any:
    """A module of a TorchScript graph, its branches included.

    TorchScript is no Python that torch.export could read; PyTorch's own converter reads the graph.
    """
    try:
        from torch._export.converter import TS2EPConverter

        with quiet():
            # Its guards would hold every size to that of these arguments.
            return TS2EPConverter(script, arguments).convert().module(check_guards=False)
    # As below: no common base.
    except Exception as error:
        cause = f"its TorchScript cannot be converted for torch.export: {root_cause(error)}"
        hint = "Set 'export.exporter' to onnx_torchscript or pytorch, or name them as fallbacks."
        raise ExportFailed(model, cause, hint) from error


def _as_taken(module: Any, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shapes in the form of the forward's parameters: a ``*`` takes all that are left."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:named], shapes[named:])


def _exported(model: str, what: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    import torch

    try:
        with torch.no_grad(), quiet():
            return torch.onnx.export(what, arguments, **options)
    # torch has no common base for what the exporter raises: a dozen types, and the user's own.
    except Exception as error:
        cause = root_cause(error)
        raise ExportFailed(model, cause, _hint(cause)) from error


def dynamic_axes(shape: Iterable[int | str]) -> dict[int, str]:
    """The named sizes of a shape, by axis."""
    return {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}


def _hint(cause: str) -> str:
    text = cause.lower()
    for signs, hint in _HINTS:
        if any(sign in text for sign in signs):
            return hint
    return _OTHER_WAYS


def _name_axes(graph_model: Any, checkpoint: Checkpoint) -> None:
    """Calls the axes what they were declared as: an exported program has names of its own."""
    import onnx_ir

    names = {
        str(got.value): size
        for value, field in zip(graph_model.graph.inputs, checkpoint.inputs.values(), strict=False)
        for got, size in zip(value.shape, field.shape, strict=False)
        if isinstance(size, str) and not isinstance(got, int)
    }
    values = [*graph_model.graph.inputs]
    values += [value for node in graph_model.graph.all_nodes() for value in node.outputs]
    for value in values:
        if value.shape is not None and any(not isinstance(size, int) for size in value.shape):
            value.shape = onnx_ir.Shape([_renamed(size, names) for size in value.shape])


def _renamed(size: Any, names: dict[str, str]) -> int | str | None:
    if isinstance(size, int) or size.value is None:
        return size if isinstance(size, int) else None
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(size.value))


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
