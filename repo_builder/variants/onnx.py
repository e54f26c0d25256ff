"""ONNX files made of the exported one: optimised, in half precision, or in 8-bit integers.

Half precision comes after optimisation: done the other way round, ONNX Runtime's optimiser puts
back into float32 whatever this CPU has no half-precision kernel for. Integers come before it, so
that the optimiser finds their pattern and writes one operator for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from repo_builder import compatibility, onnx_files
from repo_builder.causes import root_cause
from repo_builder.exporters.base import Made, VariantMaker, VariantOrder
from repo_builder.signature import ANONYMOUS, Signature, Tensor, read_signature
from repo_builder.variants.float16 import to_float16
from repo_builder.variants.optimize import optimize
from repo_builder.variants.quantize import quantize_dynamic, quantize_static
from tritonfleet.errors import BuildError, VariantFailed
from tritonfleet.spec.export import OnnxVariant

Order: TypeAlias = "VariantOrder[OnnxVariant]"
Step: TypeAlias = Callable[[Order, Path, Path], dict[str, Any]]
"""Makes one file of another, and tells what is worth knowing of it."""
_KEEPS = "Leave this variant out; the exported file works as it is."


class OnnxVariantMaker(VariantMaker[OnnxVariant]):
    """Writes ``model.onnx``, with ``model.onnx.data`` beside it above 1 GiB."""

    backend: ClassVar[str] = "onnxruntime"
    artifact_name: ClassVar[str] = onnx_files.ARTIFACT_NAME

    def make(self, order: Order) -> Made:
        """The checked file; VariantFailed when a step refuses or breaks the export's promises."""
        facts: dict[str, Any] = {}
        planned = steps(order.spec)
        if not planned:
            artifact = _copy(order, order.folder)
            return Made(artifact, compatibility.facts(artifact))
        # The steps write beside what they read: never into the exported file's own folder.
        with tempfile.TemporaryDirectory(dir=order.folder) as scratch:
            current = _copy(order, Path(scratch))
            for number, step in enumerate(planned):
                target = Path(scratch) / str(number) / self.artifact_name
                target.parent.mkdir()
                facts |= _take(step, order, current, target)
                current = target
            artifact = _finish(order, current)
        _check_promises(order, artifact)
        return Made(artifact, {**compatibility.facts(artifact), **facts})

    def signature(self, order: Order, made: Made) -> Signature:
        """As the file says."""
        return read_signature(order.model, made.artifact)


def steps(spec: OnnxVariant) -> tuple[Step, ...]:
    """What is done, in this order."""
    optimized: tuple[Step, ...] = (optimize,) if spec.optimize != "none" else ()
    if spec.quantize:
        return (quantize_dynamic if spec.quantize == "dynamic" else quantize_static, *optimized)
    return (*optimized, to_float16) if spec.precision == "fp16" else optimized


def _copy(order: Order, folder: Path) -> Path:
    try:
        return onnx_files.copy(order.onnx, folder)
    except onnx_files.UnusableFile as error:
        raise VariantFailed(
            order.model, str(error), "Build the model again with --force."
        ) from error


def _take(step: Step, order: Order, source: Path, target: Path) -> dict[str, Any]:
    try:
        return step(order, source, target)
    except (BuildError, OSError):
        raise
    # These tools raise whatever they stumble over: AttributeError, IndexError, plain Exception.
    except Exception as error:
        name = step.__name__.replace("_", " ")
        raise VariantFailed(order.model, f"{name} failed: {root_cause(error)}", _KEEPS) from error


def _finish(order: Order, source: Path) -> Path:
    """Tidies the last step's file, writes it where it belongs, and has it checked."""
    artifact = order.folder / onnx_files.ARTIFACT_NAME
    try:
        finished = onnx_files.read(source)
        onnx_files.tidy(finished)
        onnx_files.write(finished, artifact)
        onnx_files.check(artifact)
    except onnx_files.UnusableFile as error:
        raise VariantFailed(order.model, str(error), _KEEPS) from error
    return artifact


def _check_promises(order: Order, artifact: Path) -> None:
    """The outside must be the exported file's, and no newer server be needed for the format."""
    got = read_signature(order.model, artifact)
    _check_tensors(order.model, "input", order.signature.inputs, got.inputs)
    _check_tensors(order.model, "output", order.signature.outputs, got.outputs)
    before, after = compatibility.read_needs(order.onnx), compatibility.read_needs(artifact)
    if after.opset != before.opset or after.ir_version > before.ir_version:
        cause = f"it became opset {after.opset}, IR {after.ir_version}"
        raise VariantFailed(order.model, cause, _KEEPS)


def _check_tensors(
    model: str, kind: str, before: Sequence[Tensor], after: Sequence[Tensor]
) -> None:
    if [tensor.name for tensor in before] != [tensor.name for tensor in after]:
        cause = f"its {kind}s became {', '.join(tensor.name for tensor in after)}"
        raise VariantFailed(model, cause, _KEEPS)
    for was, now in zip(before, after, strict=True):
        if not _same(was, now):
            told = f"{now.dtype}{list(now.shape)} instead of {was.dtype}{list(was.shape)}"
            raise VariantFailed(model, f"{kind} '{was.name}' became {told}", _KEEPS)


def _same(before: Tensor, after: Tensor) -> bool:
    """Whether nothing was lost; a name where there was none is no loss."""
    return before.dtype == after.dtype and len(before.shape) == len(after.shape) and all(
        was in (now, ANONYMOUS) for was, now in zip(before.shape, after.shape, strict=True)
    )  # fmt: skip
