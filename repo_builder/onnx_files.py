"""ONNX files as files: tidied, written, checked and copied, with weights beside them where large.

Knows no PyTorch and no reason why; what is wrong with a file is told as a sentence, for the caller
to put into the error that fits.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repo_builder.causes import root_cause

ARTIFACT_NAME = "model.onnx"
# Protobuf ends at 2 GiB; half of it leaves room for the graph.
LARGEST_SINGLE_FILE = 1 << 30


class UnusableFile(ValueError):
    """What is wrong with an ONNX file, as a sentence."""


def read(path: Path, *, weights: bool = True) -> Any:
    """The model; with ``weights`` also those that lie beside it. Raises UnusableFile."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(path), load_external_data=weights)
    except (OSError, DecodeError, onnx.checker.ValidationError, ValueError) as error:
        raise UnusableFile(f"{path.name} cannot be read: {root_cause(error)}") from error


def tidy(model: Any) -> None:
    """Drops what tells where the file was made, and operator sets that no node uses.

    Exporters write source paths, and ONNX Runtime stamps every operator set it knows of: some
    would keep older servers from loading what they could run.
    """
    used = {node.domain for node in nodes(model.graph)}
    for function in model.functions:
        used |= {function.domain, *(node.domain for node in function.node)}
    kept = [entry for entry in model.opset_import if not entry.domain or entry.domain in used]
    kept = [type(entry).FromString(entry.SerializeToString()) for entry in kept]
    del model.opset_import[:]
    model.opset_import.extend(sorted(kept, key=lambda entry: str(entry.domain)))
    holders = [model.graph, *model.graph.input, *model.graph.output, *nodes(model.graph)]
    for holder in (model, *holders, *tensors(model.graph)):
        holder.ClearField("doc_string")
        holder.ClearField("metadata_props")


def nodes(graph: Any) -> Iterator[Any]:
    """All nodes, those of branches and loops included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from nodes(inner)


def tensors(graph: Any) -> Iterator[Any]:
    """All constants, those of branches and loops included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else ())
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from tensors(inner)


def beside(path: Path) -> tuple[Path, ...]:
    """The files that hold weights of it.

    Raises UnusableFile for one that is missing or lies outside the file's own folder.
    """
    places = {entry for tensor in _outside(read(path, weights=False)) for entry in _place(tensor)}
    return tuple(_neighbour(path, place) for place in sorted(places))


def weight_bytes(path: Path) -> int:
    """Bytes of a file and of all that it keeps beside it."""
    return sum(file.stat().st_size for file in (path, *beside(path)))


def write(model: Any, path: Path) -> None:
    """Writes a whole model: one file, or its weights in ``<name>.data`` beside it when large."""
    import onnx

    # Added up: the size of the whole would have to be encoded, which ends at 2 GiB.
    size = sum(len(t.raw_data) or t.ByteSize() for t in tensors(model.graph))
    if size <= LARGEST_SINGLE_FILE:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    place = f"{path.name}.data"
    onnx.save_model(model, str(path), save_as_external_data=True, location=place)


def check(path: Path) -> None:
    """Raises UnusableFile unless the file is valid; types and shapes are inferred up to 1 GiB."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=weight_bytes(path) <= LARGEST_SINGLE_FILE)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UnusableFile(f"the file is invalid: {root_cause(error)}") from error


def copy(path: Path, folder: Path) -> Path:
    """Copies a file as ``model.onnx``, with what lies beside it as ``model.onnx.data``.

    Weights are copied as they are and never read into memory. Raises UnusableFile for those that
    are missing or would be fetched from outside the file's own folder.
    """
    target = folder / ARTIFACT_NAME
    model = read(path, weights=False)
    renamed: dict[str, str] = {}
    for tensor in _outside(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                number = f".{len(renamed)}" if renamed and entry.value not in renamed else ""
                entry.value = renamed.setdefault(entry.value, f"{ARTIFACT_NAME}.data{number}")
    for place, name in renamed.items():
        shutil.copyfile(_neighbour(path, place), folder / name)
    if renamed:
        target.write_bytes(model.SerializeToString(deterministic=True))
    else:
        shutil.copyfile(path, target)
    return target


def _outside(model: Any) -> Iterator[Any]:
    """Constants whose bytes lie in another file."""
    from onnx import TensorProto

    for tensor in tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            yield tensor


def _place(tensor: Any) -> Iterator[str]:
    yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _neighbour(path: Path, place: str) -> Path:
    # Resolved, so that neither '..' nor a link leads to a file that is none of the model's.
    folder, file = path.parent.resolve(), (path.parent / place).resolve()
    if not file.is_relative_to(folder):
        raise UnusableFile(f"{path.name} keeps weights in '{place}', outside its own folder")
    if not file.is_file():
        raise UnusableFile(f"{path.name} keeps weights in '{place}', which is missing")
    return file
