"""Half precision inside, the same types outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repo_builder import onnx_files
from repo_builder.exporters.base import VariantOrder
from tritonfleet.errors import VariantFailed
from tritonfleet.spec.export import OnnxVariant


def to_float16(order: VariantOrder[OnnxVariant], source: Path, target: Path) -> dict[str, Any]:
    """Half the size. A CPU computes it in float32, and so a little slower; GPUs gain."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # By path: shapes are then inferred in a file, which may be larger than 2 GiB.
    converted = convert_float_to_float16(str(source), keep_io_types=True)
    halves = _halves(converted)
    if not halves:
        cause = "nothing in it is float32, so float16 changes nothing"
        raise VariantFailed(order.model, cause, "Leave this variant out.")
    _sort(converted.graph)
    onnx_files.write(converted, target)
    return {"float16_weights": halves}


def _sort(graph: Any) -> None:
    """Puts first what feeds all others: the converter leaves the casts of its inputs at the end."""
    inputs = {value.name for value in graph.input}
    # Stable: all else is in order already.
    ordered = sorted(graph.node, key=lambda n: not (n.op_type == "Cast" and n.input[0] in inputs))
    copied = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copied)


def _halves(model: Any) -> int:
    from onnx import TensorProto

    return sum(t.data_type == TensorProto.FLOAT16 for t in onnx_files.tensors(model.graph))
