"""Models whose requests last as long as a test wants."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy

from tests.launchers.onnx_models import io, publish, tensors, weighty

X = {"x": ("FP32", numpy.array([[1, 2]], numpy.float32))}
DOUBLED = [[2, 4]]
ENTERED = "a request has entered"

_GATED = f'''
import time
from pathlib import Path

import triton_python_backend_utils as pb_utils

GATE = Path(__file__).with_name("open")


class TritonPythonModel:
    def execute(self, requests):
        print("{ENTERED}", flush=True)
        while not GATE.exists():
            time.sleep(0.01)
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", x + x)])
'''


def publish_gated(repository: Path, name: str = "gated") -> Path:
    """A doubler in a process of its own that answers once the returned file exists."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(_GATED)
    (repository / name / "config.pbtxt").write_text(
        textwrap.dedent(f"""\
        name: "{name}"
        backend: "python"
        max_batch_size: 8
        input [ {{ name: "x" data_type: TYPE_FP32 dims: [ -1 ] }} ]
        output [ {{ name: "y" data_type: TYPE_FP32 dims: [ -1 ] }} ]
        instance_group [ {{ count: 1 }} ]
        """)
    )
    return folder / "open"


def publish_broken(repository: Path, name: str = "broken") -> None:
    """A model whose file is no ONNX."""
    publish(repository, name, b"this is no model", f"max_batch_size: 8 {io()}")


def publish_weighty(repository: Path, name: str, megabytes: int) -> None:
    """A model of one number, with so many megabytes of weights."""
    shapes = tensors("input", x=("FP32", [64])) + tensors("output", y=("FP32", [1]))
    publish(repository, name, weighty(megabytes), f"max_batch_size: 8 {shapes}")
