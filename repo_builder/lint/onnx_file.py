"""An ONNX file as far as a server's configuration depends on it, without its external weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_builder import onnx_files
from repo_builder.signature import Signature, graph_signature

_DEFAULT_DOMAINS = ("", "ai.onnx")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class ExternalData:
    """Weights that lie in a file of their own."""

    location: str
    end: int
    """The last byte wanted of it; 0 where the file does not say."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What an ONNX file says of itself."""

    signature: Signature
    optional_inputs: frozenset[str]
    """Inputs that have a weight as their default, and need not be given."""
    unshaped: frozenset[str]
    """Tensors whose number of dimensions it does not tell."""
    opset: int
    ir_version: int
    external: tuple[ExternalData, ...]


class NotOnnx(ValueError):
    """A file that holds no ONNX model."""


def read_onnx(model: str, path: Path) -> OnnxFile:
    """What a file says; NotOnnx, OSError, or InvalidModelConfig for a type Triton cannot serve."""
    if is_lfs_pointer(path):
        raise NotOnnx("it is a pointer of Git LFS, not the file itself")
    try:
        proto = onnx_files.read(path, weights=False)
    except onnx_files.UnusableFile as error:
        raise NotOnnx(str(error)) from error
    graph = proto.graph
    if not graph.output:
        raise NotOnnx("it holds no graph")
    values = (*graph.input, *graph.output)
    weights = {weight.name for weight in graph.initializer}
    opsets = [entry.version for entry in proto.opset_import if entry.domain in _DEFAULT_DOMAINS]
    return OnnxFile(
        signature=graph_signature(model, graph),
        optional_inputs=frozenset(value.name for value in graph.input if value.name in weights),
        unshaped=frozenset(v.name for v in values if not v.type.tensor_type.HasField("shape")),
        opset=max(opsets, default=0),
        ir_version=proto.ir_version,
        external=tuple(dict.fromkeys(_external(graph))),
    )


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git LFS has left its pointer in place of the file."""
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def _external(graph: Any) -> Iterator[ExternalData]:
    for tensor in onnx_files.tensors(graph):
        if tensor.data_location == tensor.EXTERNAL:
            told = {entry.key: entry.value for entry in tensor.external_data}
            end = _number(told.get("offset")) + _number(told.get("length"))
            yield ExternalData(told.get("location", ""), end)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
