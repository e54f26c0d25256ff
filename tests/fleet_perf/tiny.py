"""A model repository with one model of a few bytes, and a fleet file for it."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

MODEL = "tiny"
_CONFIG = f"""
name: "{MODEL}"
backend: "onnxruntime"
max_batch_size: 8
input [{{ name: "x" data_type: TYPE_FP32 dims: [4] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [4] }}]
instance_group [{{ count: 1 }}]
"""
_FLEET = f"""
name: bench
servers: [{{name: host, capacity: 512MiB}}]
models:
  {MODEL}:
    source:
      kind: python
      path: "."
      inputs: {{x: {{dtype: FP32, shape: [batch, 4]}}}}
      outputs: {{y: {{dtype: FP32, shape: [batch, 4]}}}}
"""


def repository(folder: Path) -> Path:
    """A repository in a new folder."""
    version = folder / MODEL / "1"
    version.mkdir(parents=True)
    (folder / MODEL / "config.pbtxt").write_text(_CONFIG)
    shape = ["batch", 4]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, version / "model.onnx")
    return folder


def fleet_file(folder: Path) -> Path:
    """A fleet that serves the repository's model."""
    path = folder / "fleet.yaml"
    path.write_text(_FLEET)
    return path
