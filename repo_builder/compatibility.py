"""Which releases load an ONNX file.

The operator set and format columns were found by loading files with each release of ONNX Runtime;
which Triton brings which is what the build script of each Triton release says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from repo_builder import onnx_files

_CONTRIBUTED = "com.microsoft"


class Release(NamedTuple):
    """An ONNX Runtime, and the first Triton that brings it or a later one."""

    onnxruntime: str
    opset: int
    ir_version: int
    triton: str | None


RELEASES = (
    Release("1.16", 19, 9, "23.11"),
    Release("1.17", 20, 9, "24.03"),
    Release("1.18", 21, 10, "24.05"),
    Release("1.21", 22, 10, "25.03"),
    Release("1.23", 23, 11, "25.08"),
    Release("1.24", 25, 13, "26.02"),
    Release("1.26", 26, 13, "26.07"),
    # Of the same sets; the first that runs ConvInteger on signed weights.
    Release("1.31", 26, 13, None),
)
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


def oldest_release(needs: Needs) -> Release | None:
    """The oldest release that loads such a file; None when none that is known does."""
    from_ = _SIGNED_CONVOLUTIONS if needs.signed_convolutions else RELEASES[0].onnxruntime
    able = (
        release
        for release in RELEASES[[release.onnxruntime for release in RELEASES].index(from_) :]
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
