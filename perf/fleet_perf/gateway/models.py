"""The models of the warm measurements: a tiny one, one of large tensors, one that computes.

The last is as deep as this machine needs to be busy with it for some milliseconds.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from fleet_perf.peers.network import IR_VERSION, OPSET
from tritonfleet.server.layout import CONFIG_NAME
from tritonfleet.server.pbtxt import ModelConfig, format_config

SMALL, BIG, COMPUTE = "small", "big", "compute"
SMALL_VALUES, BIG_VALUES = 4, 150_000
"""16 bytes and 600 KB, there and back."""
COMPUTE_MS = 7.0
SERVER = "host"
_WIDTH = 128
_PROBED_DEPTH = 16
_PROBES = 15


@dataclass(frozen=True, slots=True)
class Shape:
    """One model's only input and only output, in values of 4 bytes."""

    name: str
    inputs: int
    outputs: int


SHAPES = (
    Shape(SMALL, SMALL_VALUES, SMALL_VALUES),
    Shape(BIG, BIG_VALUES, BIG_VALUES),
    Shape(COMPUTE, SMALL_VALUES, 1),
)


def write_repository(folder: Path) -> None:
    """All three models; takes a moment, for the depth of the last one is measured first."""
    for shape in SHAPES:
        model = _compute(_depth()) if shape.name == COMPUTE else _identity(shape)
        (folder / shape.name / "1").mkdir(parents=True)
        onnx.save(model, folder / shape.name / "1" / "model.onnx")
        config = format_config(_config(shape))
        (folder / shape.name / CONFIG_NAME).write_text(config, encoding="utf-8")


def write_fleet(path: Path) -> None:
    """A fleet file with room for all of them."""
    fleet = {
        "name": "gateway",
        "servers": [{"name": SERVER, "capacity": "1GiB", "margin": 0}],
        "models": {shape.name: {"source": _source(shape)} for shape in SHAPES},
    }
    path.write_text(json.dumps(fleet), encoding="utf-8")  # JSON is YAML


def _source(shape: Shape) -> dict[str, Any]:
    return {
        "kind": "python",
        "path": ".",
        "inputs": {"x": {"dtype": "FP32", "shape": [shape.inputs]}},
        "outputs": {"y": {"dtype": "FP32", "shape": [shape.outputs]}},
    }


def _config(shape: Shape) -> Any:
    config = ModelConfig(name=shape.name, backend="onnxruntime")
    config.input.add(name="x", data_type="TYPE_FP32", dims=[shape.inputs])
    config.output.add(name="y", data_type="TYPE_FP32", dims=[shape.outputs])
    config.instance_group.add(count=1)
    for option in ("intra_op_thread_count", "inter_op_thread_count"):
        config.parameters[option].string_value = "1"
    return config


def _identity(shape: Shape) -> onnx.ModelProto:
    return _model([helper.make_node("Identity", ["x"], ["y"])], shape, [])


def _compute(depth: int) -> onnx.ModelProto:
    """So many products of square matrices, none of which can be known before the request."""
    weight = numpy.random.default_rng(0).standard_normal((_WIDTH, _WIDTH), numpy.float32)
    # An orthogonal factor keeps the values as large as they are, however deep the chain.
    weight = numpy.linalg.qr(weight)[0].astype(numpy.float32)
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Add", ["weight", "sum"], ["product0"]),
    ]
    for step in range(depth):
        names = [f"product{step}", "weight"], [f"product{step + 1}"]
        nodes.append(helper.make_node("MatMul", *names))
    nodes += [
        helper.make_node("ReduceMean", [f"product{depth}"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(weight, "weight"),
        numpy_helper.from_array(numpy.array([1]), "shape"),
    ]
    return _model(nodes, SHAPES[-1], constants)


def _model(
    nodes: Sequence[onnx.NodeProto], shape: Shape, constants: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        shape.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [shape.inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape.outputs])],
        list(constants),
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


def _depth() -> int:
    """How many products take ``COMPUTE_MS`` here with one thread."""
    each_ms = 1e3 * _seconds(_compute(_PROBED_DEPTH)) / _PROBED_DEPTH
    return max(1, round(COMPUTE_MS / each_ms))


def _seconds(model: onnx.ModelProto) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = {"x": numpy.ones(SMALL_VALUES, numpy.float32)}
    return statistics.median(_timed(session, inputs) for _ in range(_PROBES))


def _timed(session: Any, inputs: Any) -> float:
    begun = time.perf_counter()
    session.run(None, inputs)
    return time.perf_counter() - begun
