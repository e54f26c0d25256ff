"""Writes the job's models: real ONNX networks with weights of their own."""

from __future__ import annotations

from pathlib import Path

import numpy
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fleet_perf.peers.job import Network

OPSET = 20
IR_VERSION = 10
"""Both load in every ONNX Runtime since 1.18."""


def write_network(path: Path, network: Network, seed: int) -> None:
    """One model; each seed gives other weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(_model(network, numpy.random.default_rng(seed)), path)


def _model(network: Network, random: numpy.random.Generator) -> onnx.ModelProto:
    table = random.standard_normal((network.vocabulary, network.width), numpy.float32)
    weights = [_tensor("table", table), _tensor("axes", numpy.array([1]))]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("ReduceMean", ["embedded", "axes"], ["mean"], keepdims=0),
    ]
    before, width = "mean", network.width
    for index, after in enumerate(network.layers):
        layer = random.standard_normal((width, after), numpy.float32) / numpy.float32(width**0.5)
        weights += [
            _tensor(f"weight{index}", layer),
            _tensor(f"bias{index}", numpy.zeros(after, numpy.float32)),
        ]
        last = index == len(network.layers) - 1
        sums = "scores" if last else f"sums{index}"
        nodes.append(helper.make_node("Gemm", [before, f"weight{index}", f"bias{index}"], [sums]))
        if not last:
            nodes.append(helper.make_node("Relu", [sums], [f"hidden{index}"]))
        before, width = f"hidden{index}", after
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", width])],
        weights,
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


def _tensor(name: str, values: NDArray[numpy.generic]) -> onnx.TensorProto:
    return numpy_helper.from_array(values, name)
