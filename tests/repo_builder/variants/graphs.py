"""Small ONNX files of the kinds that variants are made of, and orders for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from repo_builder import onnx_files
from repo_builder.exporters.base import VariantOrder
from repo_builder.signature import read_signature
from tritonfleet.spec.export import OnnxVariant

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
VOCABULARY, WIDTH = 200, 64


def weight(name: str, *shape: int):
    values = np.random.default_rng(len(name)).standard_normal(shape) * 0.1
    return numpy_helper.from_array(values.astype(np.float32), name)


def transformer_like(folder: Path) -> Path:
    """Looks tokens up, and multiplies them with weights twice; the last is a Gemm."""
    nodes = [
        helper.make_node("Gather", ["embeddings", "tokens"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "w1"], ["h1"]),
        helper.make_node("Add", ["h1", "b1"], ["h2"]),
        helper.make_node("Relu", ["h2"], ["h3"]),
        helper.make_node("ReduceMean", ["h3", "axis"], ["pooled"], keepdims=0),
        helper.make_node("Gemm", ["pooled", "w2", "b2"], ["scores"], transB=1),
    ]
    weights = [
        weight("embeddings", VOCABULARY, WIDTH),
        weight("w1", WIDTH, WIDTH),
        weight("b1", WIDTH),
        weight("w2", 3, WIDTH),
        weight("b2", 3),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    # As exporters do: shapes of weights too, which the quantizer transposes.
    shapes = [helper.make_tensor_value_info("w2", FLOAT, [3, WIDTH])]
    tokens = helper.make_tensor_value_info("tokens", INT64, ["batch", "sequence"])
    scores = helper.make_tensor_value_info("scores", FLOAT, ["batch", 3])
    return save(folder, nodes, [tokens], [scores], weights, value_info=shapes)


def convolutional(folder: Path) -> Path:
    """A convolution, a residual one, a pooling and a product."""
    nodes = [
        helper.make_node("Conv", ["image", "c1"], ["h1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Conv", ["h2", "c2"], ["h3"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["h2", "h3"], ["h4"]),
        helper.make_node("GlobalAveragePool", ["h4"], ["h5"]),
        helper.make_node("Flatten", ["h5"], ["h6"]),
        helper.make_node("Gemm", ["h6", "w"], ["scores"]),
    ]
    weights = [weight("c1", 8, 3, 3, 3), weight("c2", 8, 8, 3, 3), weight("w", 8, 4)]
    image = helper.make_tensor_value_info("image", FLOAT, ["batch", 3, 8, 8])
    scores = helper.make_tensor_value_info("scores", FLOAT, ["batch", 4])
    return save(folder, nodes, [image], [scores], weights)


def adder(folder: Path, element=FLOAT) -> Path:
    """Adds x to itself, without any weights."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    value = [helper.make_tensor_value_info(name, element, ["batch", 4]) for name in "xy"]
    return save(folder, [node], value[:1], value[1:], [])


def save(folder, nodes, inputs, outputs, weights, value_info=()) -> Path:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, weights, doc_string="/home/me", value_info=list(value_info)
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnx_files.write(model, path)
    return path


def order(onnx: Path, calibration=(), **spec) -> VariantOrder[OnnxVariant]:
    """An order whose version folder lies beside the exported file's."""
    folder = onnx.parent.parent / f"variant{len(list(onnx.parent.parent.iterdir()))}"
    folder.mkdir()
    variant = OnnxVariant(format="onnx", **spec)
    signature = read_signature("m", onnx)
    return VariantOrder("m", variant, onnx, signature, folder, folder, calibration)


def tokens(rows: int = 4, length: int = 6, seed: int = 0):
    values = np.random.default_rng(seed).integers(0, VOCABULARY, (rows, length))
    return {"tokens": values}


def images(rows: int = 4, seed: int = 0):
    values = np.random.default_rng(seed).standard_normal((rows, 3, 8, 8))
    return {"image": values.astype(np.float32)}
