"""PyTorch to ONNX by tracing, for modules that torch.export does not take.

A trace records what one sample did. Where the module branches on values, one branch is baked in
without a word: further samples are tried here, and the parity check tries others, but a branch that
no sample takes stays unseen. PyTorch calls this exporter deprecated: it is a fallback, never the
default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from repo_builder import onnx_files
from repo_builder.causes import root_cause
from repo_builder.exporters.base import Exporter
from repo_builder.exporters.onnx import check_file, dynamic_axes
from repo_builder.exporters.sample import (
    check_ready,
    observed_outputs,
    quiet,
    sample_arguments,
    sample_sizes,
)
from repo_builder.exporters.tracing import is_script, trace
from repo_builder.signature import ANONYMOUS, Signature, Tensor, read_signature
from repo_builder.sources.base import Checkpoint
from tritonfleet.errors import ExportFailed
from tritonfleet.spec.export import ExportSpec

_NEWEST_OPSET = 20
_LAST_RESORT = "Serve its Python code instead: 'source: {kind: python}'."
_HINT = "'export.fallbacks: [pytorch]' would serve it as TorchScript."


class OnnxTorchScriptExporter(Exporter):
    """Writes ``model.onnx``, with ``model.onnx.data`` beside it above 1 GiB."""

    backend: ClassVar[str] = "onnxruntime"
    artifact_name: ClassVar[str] = onnx_files.ARTIFACT_NAME

    def export(self, model: str, checkpoint: Checkpoint, spec: ExportSpec, folder: Path) -> Path:
        """The checked artifact's path."""
        _check_possible(model, checkpoint, spec)
        check_ready(model, checkpoint)
        outputs = observed_outputs(model, checkpoint.module, checkpoint)
        module = checkpoint.module
        if not is_script(checkpoint):
            traced = trace(model, checkpoint, _LAST_RESORT)
            # An exported program's module cannot be switched to evaluation, as the exporter wants.
            module = module if checkpoint.program is None else traced
        # A large model is written as a file for each weight, with no say in their names.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            draft = Path(scratch) / self.artifact_name
            _export(model, module, checkpoint, outputs, spec.opset, draft)
            graph_model = onnx_files.read(draft)
        onnx_files.tidy(graph_model)
        _note_sizes(graph_model, outputs)
        _check_promises(model, graph_model, checkpoint, spec)
        path = folder / self.artifact_name
        onnx_files.write(graph_model, path)
        check_file(model, path)
        return path

    def signature(self, model: str, artifact: Path, checkpoint: Checkpoint) -> Signature:
        """As the file says."""
        return read_signature(model, artifact)


def _check_possible(model: str, checkpoint: Checkpoint, spec: ExportSpec) -> None:
    if checkpoint.module is None:
        cause = "the source is an ONNX file already, and there is no module to trace"
        raise ExportFailed(model, cause, "Set 'export.exporter' to onnx.")
    if spec.opset > _NEWEST_OPSET:
        cause = f"tracing ends at opset {_NEWEST_OPSET}, asked for is {spec.opset}"
        raise ExportFailed(model, cause, f"Set export.opset to {_NEWEST_OPSET}.")


def _export(
    model: str, module: Any, checkpoint: Checkpoint, outputs: Sequence[Tensor], opset: int,
    path: Path,
) -> None:  # fmt: skip
    import torch

    shapes = {name: field.shape for name, field in checkpoint.inputs.items()}
    shapes |= {tensor.name: tensor.shape for tensor in outputs}
    arguments = sample_arguments(checkpoint, sample_sizes(checkpoint))
    try:
        with torch.no_grad(), quiet():
            torch.onnx.export(
                module,
                arguments,
                str(path),
                dynamo=False,
                opset_version=opset,
                input_names=list(checkpoint.inputs),
                output_names=list(checkpoint.outputs),
                dynamic_axes={name: _named_axes(name, shape) for name, shape in shapes.items()},
            )
    # As with the other exporter: no common base, and the user's own.
    except Exception as error:
        raise ExportFailed(model, root_cause(error), _HINT) from error


def _named_axes(tensor: str, shape: Sequence[int | str]) -> dict[int, str]:
    """The dynamic axes; each without a name gets one of its own, for two would count as equal."""
    return {
        axis: f"{tensor}_{axis}" if size == ANONYMOUS else size
        for axis, size in dynamic_axes(shape).items()
    }


def _note_sizes(graph_model: Any, outputs: Sequence[Tensor]) -> None:
    """Writes the sizes that outputs were seen to keep, where the trace lost them on the way."""
    seen = {tensor.name: tensor.shape for tensor in outputs}
    for value in graph_model.graph.output:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, seen.get(value.name, ()), strict=False):
            if isinstance(size, int):
                dim.dim_value = size


def _check_promises(model: str, graph_model: Any, checkpoint: Checkpoint, spec: ExportSpec) -> None:
    opsets = {entry.domain: entry.version for entry in graph_model.opset_import}
    if opsets.get("") != spec.opset:
        cause = f"opset {spec.opset} was asked for and the exporter gave {opsets.get('')}"
        raise ExportFailed(model, cause, f"Set export.opset to {opsets.get('')}.")
    got = {value.name: _shape(value) for value in graph_model.graph.input}
    for name, field in checkpoint.inputs.items():
        if name not in got:
            cause = f"input '{name}' has no influence on the outputs, and the trace dropped it"
            raise ExportFailed(model, cause, "Remove it from 'inputs'.")
        if got[name] != field.shape:
            cause = (
                f"input '{name}' became {list(got[name])} where {list(field.shape)} was declared"
            )
            raise ExportFailed(model, cause, "Declare the shape that its forward really takes.")
    if [value.name for value in graph_model.graph.output] != list(checkpoint.outputs):
        cause = f"the graph gives {len(graph_model.graph.output)} outputs"
        hint = f"Declared are {', '.join(checkpoint.outputs)}: return them in that order."
        raise ExportFailed(model, cause, hint)


def _shape(value: Any) -> tuple[int | str, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_param if dim.HasField("dim_param") else dim.dim_value for dim in dims)
