"""PyTorch to TorchScript, for models that no ONNX exporter takes.

Triton's pytorch backend runs the result. As with every trace, one branch is baked in (tracing.py);
a module that comes as TorchScript keeps all of them.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from repo_builder.causes import root_cause
from repo_builder.exporters.base import Exporter
from repo_builder.exporters.sample import check_ready, observed_outputs, quiet, run
from repo_builder.exporters.tracing import is_script, trace
from repo_builder.judging.reference import Array, Tensors
from repo_builder.signature import Signature, Tensor
from repo_builder.sources.base import Checkpoint
from tritonfleet.errors import ExportFailed, ParityFailed
from tritonfleet.spec.export import ExportSpec

_LAST_RESORT = "Serve its Python code instead: 'source: {kind: python}'."
_INDEXED = re.compile(r".*__(\d+)")
# What the official backend has a tensor type for.
_CARRIED = ("BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")


class PytorchExporter(Exporter):
    """Writes ``model.pt``: a trace of the module, frozen, or its script where it is one."""

    backend: ClassVar[str] = "pytorch"
    artifact_name: ClassVar[str] = "model.pt"

    def export(self, model: str, checkpoint: Checkpoint, spec: ExportSpec, folder: Path) -> Path:
        """The artifact's path."""
        if checkpoint.module is None:
            cause = "the source is an ONNX file, and there is no module to trace"
            raise ExportFailed(model, cause, "Set 'export.exporter' to onnx.")
        check_ready(model, checkpoint)
        observed_outputs(model, checkpoint.module, checkpoint)
        path = folder / self.artifact_name
        scripted = _scripted(model, checkpoint)
        _check_names(model, checkpoint, _argument_names(scripted))
        try:
            with quiet():
                scripted.save(str(path))
        except RuntimeError as error:
            raise ExportFailed(model, root_cause(error), _LAST_RESORT) from error
        _drop_source_paths(path)
        return path

    def signature(self, model: str, artifact: Path, checkpoint: Checkpoint) -> Signature:
        """Inputs as declared; outputs as the artifact gives them, for the file does not say."""
        loaded = _load(model, artifact)
        inputs = tuple(Tensor(n, f.dtype, f.shape) for n, f in checkpoint.inputs.items())
        found = Signature(inputs, observed_outputs(model, loaded, checkpoint))
        for tensor in found.tensors:
            if tensor.dtype not in _CARRIED:
                cause = f"'{tensor.name}' is {tensor.dtype}, which Triton's pytorch backend has not"
                raise ExportFailed(model, cause, "Cast it inside the model.")
        return found


class PytorchRunner:
    """TorchScript on the CPU."""

    def __init__(self, model: str, artifact: Path, signature: Signature) -> None:
        self._module, self._signature = _load(model, artifact), signature

    def run(self, inputs: Mapping[str, Array]) -> Tensors:
        """All outputs."""
        import torch

        ordered = tuple(torch.from_numpy(inputs[t.name]) for t in self._signature.inputs)
        names = [tensor.name for tensor in self._signature.outputs]
        values = run(self._module, ordered)
        return {name: v.numpy() for name, v in zip(names, values, strict=True)}


def _scripted(model: str, checkpoint: Checkpoint) -> Any:
    import torch

    if is_script(checkpoint):
        return checkpoint.module
    traced = trace(model, checkpoint, _LAST_RESORT)
    try:
        with quiet():
            # Weights become constants, and what depends on them alone is computed now.
            return torch.jit.freeze(traced)
    except RuntimeError as error:
        raise ExportFailed(model, root_cause(error), _LAST_RESORT) from error


def _argument_names(scripted: Any) -> tuple[str, ...]:
    return tuple(argument.name for argument in scripted.forward.schema.arguments[1:])


def _check_names(model: str, checkpoint: Checkpoint, arguments: Sequence[str]) -> None:
    """Refuses names by which the official backend would take the tensors in another order.

    It goes by the forward's argument names, or by numbers such as 'x__0', before it goes by the
    order in config.pbtxt.
    """
    names = tuple(checkpoint.inputs)
    if set(names) == set(arguments) and names != tuple(arguments):
        cause = f"its forward takes {', '.join(arguments)}, declared are {', '.join(names)}"
        raise ExportFailed(model, cause, "Declare the inputs in the order of its forward.")
    for kind, tensors in (("input", names), ("output", checkpoint.outputs)):
        numbers = [match and int(match[1]) for match in map(_INDEXED.fullmatch, tensors)]
        if all(number is not None for number in numbers) and numbers != list(range(len(numbers))):
            cause = f"{kind}s {', '.join(tensors)} are numbered in another order than declared"
            raise ExportFailed(model, cause, "Number them from 0, in their order, or not at all.")


def _drop_source_paths(path: Path) -> None:
    """Leaves out the records that say which line of which file each operation came from."""
    draft = path.with_suffix(".draft")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as new:
        for record in old.infolist():
            if not record.filename.endswith(".debug_pkl"):
                # A date of its own would give other bytes each time.
                copied = zipfile.ZipInfo(record.filename)
                copied.file_size = record.file_size
                with old.open(record) as source, new.open(copied, "w") as target:
                    while block := source.read(1 << 20):
                        target.write(block)
    draft.replace(path)


def _load(model: str, artifact: Path) -> Any:
    import torch

    try:
        with quiet():
            return torch.jit.load(str(artifact), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        cause = f"TorchScript does not load the artifact: {root_cause(error)}"
        raise ParityFailed(model, cause, _LAST_RESORT) from error
