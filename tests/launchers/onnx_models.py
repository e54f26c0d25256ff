"""Tiny ONNX graphs, and how they are published."""

from __future__ import annotations

from pathlib import Path

import numpy
from onnx import TensorProto, helper, numpy_helper


def graph(nodes, inputs, outputs, initializers=()) -> bytes:
    """A model; inputs and outputs are ``name: (TensorProto type, shape)``."""
    infos = [
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in tensors.items()]
        for tensors in (inputs, outputs)
    ]
    proto = helper.make_model(
        helper.make_graph(nodes, "tiny", *infos, list(initializers)),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    return proto.SerializeToString()


def doubler(element=TensorProto.FLOAT, shape=("batch", "n")) -> bytes:
    """Doubles x into y."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return graph([node], {"x": (element, shape)}, {"y": (element, shape)})


def identity(element, shape=("batch", "n")) -> bytes:
    """Passes x on as y."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return graph([node], {"x": (element, shape)}, {"y": (element, shape)})


def lookup() -> bytes:
    """Gives y = table[i] for a table of 4 rows; other indices are refused while running."""
    table = numpy_helper.from_array(numpy.arange(8, dtype=numpy.float32).reshape(4, 2), "table")
    node = helper.make_node("Gather", ["table", "i"], ["y"])
    return graph(
        [node],
        {"i": (TensorProto.INT64, ["batch", "n"])},
        {"y": (TensorProto.FLOAT, ["batch", "n", 2])},
        [table],
    )


def two_outputs() -> bytes:
    """Gives plus = a + b and minus = a - b."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["plus"]),
        helper.make_node("Sub", ["a", "b"], ["minus"]),
    ]
    tensor = (TensorProto.FLOAT, ["batch", 2])
    return graph(nodes, {"a": tensor, "b": tensor}, {"plus": tensor, "minus": tensor})


def heavy(megabytes: int) -> bytes:
    """Multiplies x with w, with so many megabytes of w."""
    width = megabytes * 2**20 // 4 // 64
    weight = numpy_helper.from_array(numpy.zeros((64, width), numpy.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return graph(
        [node],
        {"x": (TensorProto.FLOAT, ["batch", 64])},
        {"y": (TensorProto.FLOAT, ["batch", width])},
        [weight],
    )


def publish(repository: Path, name: str, model: bytes, config: str, file="model.onnx") -> None:
    """Writes version 1 of a model; ``config`` lacks only name, backend and instance group."""
    path = repository / name / "1" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(model)
    (repository / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "onnxruntime"\ninstance_group [{{ count: 1 }}]\n{config}\n'
    )


def tensors(kind: str, **given: tuple[str, list[int]]) -> str:
    """The ``input`` or ``output`` entries of a config.pbtxt."""
    return "\n".join(
        f'{kind} {{ name: "{name}" data_type: TYPE_{dtype} dims: {dims} }}'
        for name, (dtype, dims) in given.items()
    )


def publish_doubler(repository: Path, name: str = "double") -> None:
    """The model most tests need."""
    io = tensors("input", x=("FP32", [-1])) + tensors("output", y=("FP32", [-1]))
    publish(repository, name, doubler(), f"max_batch_size: 8 {io}")
