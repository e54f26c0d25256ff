"""ONNX files that exist already: whoever exported them, what they say is taken as the original.

The file is read, held against the standard and opened once by the ONNX Runtime of this
environment, so that what a server could not load is told before anything is built of it.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from repo_builder import onnx_files
from repo_builder.causes import root_cause
from repo_builder.signature import ANONYMOUS, BATCH, Shape, Signature, read_signature
from repo_builder.sources.base import (
    Checkpoint,
    CheckpointSource,
    Digest,
    InputField,
    SourceContext,
)
from repo_builder.sources.location import artifact_path, artifact_state
from tritonfleet.errors import ExportFailed, SourceUnavailable
from tritonfleet.server.tensors import NUMPY_TYPES
from tritonfleet.spec.sources import OnnxSource as OnnxSpec

_SUFFIX = ".onnx"
_SAMPLED = (*NUMPY_TYPES, "BYTES")


class OnnxSource(CheckpointSource[OnnxSpec]):
    """A file, or a folder with one, and the external data that it names."""

    def state(
        self, spec: OnnxSpec, context: SourceContext, digest: Digest
    ) -> dict[str, Any] | None:
        """The content's digest, with that of the files beside it whose names it mentions."""
        state = artifact_state(spec.path, context, digest)
        if state is None:
            return None
        path = artifact_path(spec.path, context)
        beside = [] if path.is_dir() else _mentioned(path)
        data = {file.relative_to(path.parent).as_posix(): digest(file) for file in beside}
        return {**state, "data": data} if data else state

    def fetch(self, spec: OnnxSpec, context: SourceContext) -> Path | None:
        """The .onnx file."""
        return _file(context.model, artifact_path(spec.path, context))

    def load(self, spec: OnnxSpec, context: SourceContext, fetched: Path | None) -> Checkpoint:
        """The file's own signature; nothing is loaded for longer than the check takes."""
        path = fetched or _file(context.model, artifact_path(spec.path, context))
        graph = _checked(context.model, path)
        signature = read_signature(context.model, path)
        _check_types(context.model, signature)
        _check_session(context.model, path)
        opset = {entry.domain or "ai.onnx": entry.version for entry in graph.opset_import}
        return Checkpoint(
            None,
            _inputs(signature, graph),
            tuple(tensor.name for tensor in signature.outputs),
            onnx=path,
            facts={"opset": opset, "producer": graph.producer_name},
        )


def _mentioned(path: Path) -> list[Path]:
    """Files below its folder whose names occur in the file: its external data is among them.

    Searched as bytes, because the fingerprint of an unchanged model must not cost an import.
    """
    others = sorted(p for p in path.parent.rglob("*") if p.is_file() and p.suffix != _SUFFIX)
    if not others or not path.stat().st_size:
        return []
    with path.open("rb") as stream:
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return [other for other in others if content.find(other.name.encode()) >= 0]


def _file(model: str, path: Path) -> Path:
    """The file itself, or the only one in a folder."""
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{_SUFFIX}"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found[:5]) or "none"
    cause = f"{path} should hold one {_SUFFIX} file and holds {names}"
    raise SourceUnavailable(model, cause, "Name the file itself with 'path'.")


def _checked(model: str, path: Path) -> Any:
    """The model without its external data, if it is what the standard calls one."""
    try:
        graph_model = onnx_files.read(path, weights=False)
        for value in (*graph_model.graph.input, *graph_model.graph.output):
            _check_value(model, value)
        onnx_files.check(path)
    except onnx_files.UnusableFile as error:
        hint = "Save it again, with its data beside it; from afar, name the folder of both."
        raise SourceUnavailable(model, f"{path}: {error}", hint) from error
    return graph_model


def _check_value(model: str, value: Any) -> None:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        cause = f"'{value.name}' is a {str(kind).removesuffix('_type')}, and Triton serves tensors"
        hint = "Export it without: for scikit-learn's classifiers, convert with zipmap=False."
        raise ExportFailed(model, cause, hint)
    if not value.type.tensor_type.HasField("shape"):
        cause = f"'{value.name}' does not tell how many dimensions it has"
        raise ExportFailed(model, cause, "Run onnx.shape_inference on it, or declare its shape.")


def _check_session(model: str, path: Path) -> None:
    """Whether the ONNX Runtime of this environment takes it.

    With one thread and no optimisation: this process may fork later on, and threads do not.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # onnxruntime's exceptions have no common base that it exports.
    except Exception as error:
        cause = f"ONNX Runtime {onnxruntime.__version__} does not load {path}: {root_cause(error)}"
        raise ExportFailed(model, cause, _session_hint(str(error))) from error


def _session_hint(text: str) -> str:
    if "IR version" in text or "opset" in text:
        return "Save it with an older ir_version and opset: 10 and 20 load in Triton from 24.05 on."
    if "not implemented" in text.lower() or "no op registered" in text.lower():
        return "Export it without that operator or type."
    return ""


def _check_types(model: str, signature: Signature) -> None:
    for tensor in signature.tensors:
        if tensor.dtype not in _SAMPLED:
            cause = f"'{tensor.name}' is {tensor.dtype}, for which requests cannot be made here"
            raise ExportFailed(model, cause, "Cast it to FP32 inside the model.")


def _inputs(signature: Signature, graph_model: Any) -> dict[str, InputField]:
    """Fields in the graph's order, with likely values: names say what a tensor is for."""
    rows = _looked_up(graph_model.graph)
    batch = signature.inputs[0].shape[0] if signature.batchable else None
    return {
        tensor.name: _field(tensor.name, tensor.dtype, _named(tensor.shape, batch), rows)
        for tensor in signature.inputs
    }


def _named(shape: Shape, batch: int | str | None) -> Shape:
    """The shape with the batch called so, and the nameless dimensions told apart by their place."""
    called = (
        BATCH if axis == 0 and size == batch else f"dim_{axis}" if size == ANONYMOUS else size
        for axis, size in enumerate(shape)
    )
    return tuple(called)


def _field(name: str, dtype: str, shape: Shape, rows: dict[str, int]) -> InputField:
    if name in rows:
        return InputField(dtype, shape, "tokens", rows[name])
    return InputField(dtype, shape, "mask" if _is_mask(name, shape) else "normal")


def _is_mask(name: str, shape: Shape) -> bool:
    return name.endswith("attention_mask") and len(shape) == 2


def _looked_up(graph: Any) -> dict[str, int]:
    """How many rows the table has in which an input is looked up: its values must stay below."""
    tables = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    return {
        node.input[1]: int(tables[node.input[0]])
        for node in graph.node
        if node.op_type == "Gather" and node.input[0] in tables
    }
