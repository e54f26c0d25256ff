"""Small repositories by hand, correct unless a test makes a mistake in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from repo_builder.lint.findings import Expected
from repo_builder.lint.linter import lint

IDENTITY = """
name: "{name}"
backend: "onnxruntime"
max_batch_size: 8
input [{{ name: "x" data_type: TYPE_FP32 dims: [4] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [4] }}]
instance_group [{{ count: 1 }}]
"""
PYTHON = """
name: "{name}"
backend: "python"
max_batch_size: 8
input [{{ name: "x" data_type: TYPE_FP32 dims: [4] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [4] }}]
"""
PYTHON_CODE = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"


def onnx_bytes(
    inputs: Mapping[str, list[Any]] | None = None,
    outputs: Mapping[str, list[Any]] | None = None,
    opset: int = 20,
    ir_version: int = 10,
    dtype: int = TensorProto.FLOAT,
    initializers: tuple[Any, ...] = (),
) -> bytes:
    """A model that hands its first input on to every output."""
    inputs = inputs or {"x": ["batch", 4]}
    outputs = outputs or {"y": ["batch", 4]}
    first = next(iter(inputs))
    graph = helper.make_graph(
        [helper.make_node("Identity", [first], [name]) for name in outputs],
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in outputs.items()],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", opset)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    return model.SerializeToString()


def external(location: str, length: int = 16, name: str = "w") -> Any:
    """A weight that lies in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[length // 4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def onnx_model(
    repository: Path, name: str = "m", more: str = "", config: str = IDENTITY, **model: Any
) -> Path:
    """A correct ONNX model; ``more`` is added to its configuration."""
    text = config.format(name=name) + more
    return write(repository / name, {"config.pbtxt": text, "1/model.onnx": onnx_bytes(**model)})


def python_model(
    repository: Path, name: str = "m", more: str = "", config: str = PYTHON, code: str = PYTHON_CODE
) -> Path:
    text = config.format(name=name) + more
    return write(repository / name, {"config.pbtxt": text, "1/model.py": code})


def change(folder: Path, old: str, new: str, file: str = "config.pbtxt") -> None:
    """Makes a mistake in a configuration."""
    text = (folder / file).read_text()
    assert old in text, f"{old!r} is not in {text}"
    (folder / file).write_text(text.replace(old, new))


def found(repository: Path, **expected: Any) -> list[str]:
    """The ids of the rules that found something, each as often as it did."""
    return [finding.rule for finding in lint(repository, Expected(**expected))[1]]


def told(repository: Path, **expected: Any) -> str:
    """All that was found, as text."""
    return "\n".join(
        f"{f.model} {f.rule} {f.place} {f.message} {f.fix}"
        for f in lint(repository, Expected(**expected))[1]
    )
