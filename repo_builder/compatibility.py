"""What an ONNX file asks for, and which releases load it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_builder import onnx_files
from tritonfleet.server.releases import ONNX_RUNTIMES, OnnxRuntime

_CONTRIBUTED = "com.microsoft"


_SIGNED_CONVOLUTIONS = "1.31"
# It brings ONNX Runtime 1.28.
_NEWEST_TRITON = "26.08"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a file asks of the runtime that loads it."""

    opset: int
    ir_version: int
    domains: tuple[str, ...] = ()
    """Operator sets beside ONNX's own."""
    signed_convolutions: bool = False
    """Whether it convolves signed 8-bit weights with activations quantized while running."""


def oldest_release(needs: Needs) -> OnnxRuntime | None:
    """The oldest release that loads such a file; None when none that is known does."""
    from_ = _SIGNED_CONVOLUTIONS if needs.signed_convolutions else ONNX_RUNTIMES[0].onnxruntime
    names = [release.onnxruntime for release in ONNX_RUNTIMES]
    able = (
        release
        for release in ONNX_RUNTIMES[names.index(from_) :]
        if needs.opset <= release.opset and needs.ir_version <= release.ir_version
    )
    return next(able, None)


def read_needs(path: Path) -> Needs:
    """What a file asks for, without reading weights that lie beside it."""
    model = onnx_files.read(path, weights=False)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    return Needs(
        opset=opsets.get("", opsets.get("ai.onnx", 0)),
        ir_version=model.ir_version,
        domains=tuple(sorted(domain for domain in opsets if domain not in ("", "ai.onnx"))),
        signed_convolutions=any(_signed_convolutions(model.graph)),
    )


def facts(path: Path) -> dict[str, Any]:
    """For the manifest: operator sets, format, and the oldest releases that load the file."""
    needs = read_needs(path)
    release = oldest_release(needs)
    told: dict[str, Any] = {"opset": needs.opset, "ir_version": needs.ir_version}
    if release is not None:
        told["oldest_onnxruntime"] = release.onnxruntime
        told["oldest_triton"] = release.triton or f"newer than {_NEWEST_TRITON}"
    if needs.domains:
        told["operator_sets"] = list(needs.domains)
    if _CONTRIBUTED in needs.domains:
        told["runs_in"] = "ONNX Runtime only"
    return told


def _signed_convolutions(graph: Any) -> Iterator[bool]:
    from onnx import TensorProto

    signed = {t.name for t in onnx_files.tensors(graph) if t.data_type == TensorProto.INT8}
    for node in onnx_files.nodes(graph):
        yield node.op_type == "ConvInteger" and not signed.isdisjoint(node.input)
