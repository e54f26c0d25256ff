"""Tiny real models and fleets for tests on a real tritonserver."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from tritonfleet.spec import FleetSpec, load_fleet

MIB = 2**20


def write_adder(repository: Path, name: str, *, amount=1.0, megabytes=0.0, dynamic=True):
    """Publishes ``y = x + amount`` over [batch, 4], with so much dead weight in it."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    constants = [numpy_helper.from_array(numpy.float32(amount), "amount")]
    nodes = [helper.make_node("Add", ["x", "amount"], ["sum"])]
    count = int(megabytes * MIB / 4 / 4) or 1
    constants.append(numpy_helper.from_array(numpy.zeros((4, count), numpy.float32), "weight"))
    constants.append(numpy_helper.from_array(numpy.zeros((count, 4), numpy.float32), "back"))
    nodes += [
        helper.make_node("MatMul", ["x", "weight"], ["wide"]),
        helper.make_node("MatMul", ["wide", "back"], ["nothing"]),
        helper.make_node("Add", ["sum", "nothing"], ["y"]),
    ]
    graph = helper.make_graph(nodes, name, [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    directory = repository / name / "1"
    directory.mkdir(parents=True)
    onnx.save(model, directory / "model.onnx")
    batching = "dynamic_batching { max_queue_delay_microseconds: 100 }" if dynamic else ""
    (repository / name / "config.pbtxt").write_text(
        textwrap.dedent(f"""\
        name: "{name}"
        backend: "onnxruntime"
        max_batch_size: 8
        input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }} ]
        output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] }} ]
        instance_group [ {{ count: 1 }} ]
        {batching}
        """),
        encoding="utf-8",
    )


def write_ensemble(repository: Path, name: str, first: str, second: str):
    """Publishes an ensemble that runs two adders one after the other."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(
        textwrap.dedent(f"""\
        name: "{name}"
        platform: "ensemble"
        max_batch_size: 8
        input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }} ]
        output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] }} ]
        ensemble_scheduling {{ step [
          {{ model_name: "{first}" model_version: -1
             input_map {{ key: "x" value: "x" }} output_map {{ key: "y" value: "middle" }} }},
          {{ model_name: "{second}" model_version: -1
             input_map {{ key: "x" value: "middle" }} output_map {{ key: "y" value: "y" }} }} ] }}
        """),
        encoding="utf-8",
    )


def adder_fleet(
    tmp_path: Path, adders: dict[str, str], *, capacity="100MiB", extra=""
) -> FleetSpec:
    """A fleet of adders with declared footprints, published in ``tmp_path / 'repository'``."""
    repository = tmp_path / "repository"
    lines = []
    for index, (name, footprint) in enumerate(adders.items()):
        write_adder(repository, name, amount=index + 1)
        lines.append(f"  {name}:\n    residency: {{footprint: {footprint}}}\n    source: *adder")
    text = f"""\
name: tiny
servers: [{{name: local, capacity: {capacity}, margin: 0}}]
settings:
  repository: {repository}
  state_dir: {tmp_path / "state"}
  http_port: 0
  grpc_port: 0
  control_port: 0
  stop_grace_s: 5
models:
  template_:
    source: &adder
      kind: torch_module
      factory: "nowhere:adder"
      inputs: {{x: {{dtype: FP32, shape: [batch, 4]}}}}
      outputs: [y]
    residency: {{footprint: 1MiB}}
"""
    path = tmp_path / "fleet.yaml"
    path.write_text(text + "\n".join(lines) + "\n" + extra, encoding="utf-8")
    return load_fleet(path)
