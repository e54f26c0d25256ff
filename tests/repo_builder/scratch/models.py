"""Staged models for the scratch server, good and bad, with what does not matter left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy

from repo_builder.judging.gates import gate_for
from repo_builder.judging.reference import Case, Recorded, Reference
from repo_builder.scratch.order import ProofOrder
from tests.tiny import write_adder
from tritonfleet.server.pbtxt import read_config
from tritonfleet.spec.export import ParitySpec

FP32 = gate_for(ParitySpec(), "fp32")
ECHO = "pb_utils.Tensor('y', pb_utils.get_input_tensor_by_name(request, 'x').as_numpy())"
_MODEL = """
import os, signal, sys, time
import numpy
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, arguments):
        {initialize}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        {answer}
        return pb_utils.InferenceResponse([{echo}])
"""


def adder(folder: Path, name: str = "adder", **options: Any) -> ProofOrder:
    """Y = x + 1 over [batch, 4], batches of up to 8, in ONNX."""
    write_adder(folder, name, **options)
    return order(folder, name)


def python_model(
    folder: Path,
    name: str = "python",
    *,
    initialize: str = "pass",
    answer: str = "pass",
    config: str = "max_batch_size: 4",
    code: str = _MODEL,
    dtype: str = "TYPE_FP32",
) -> ProofOrder:
    """Y = x over [batch, 4], with whatever else it is to do first."""
    version = folder / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(
        code.format(initialize=initialize, answer=answer, echo=ECHO) if code is _MODEL else code
    )
    tensors = "".join(
        f'{kind} {{ name: "{tensor}" data_type: {dtype} dims: [ 4 ] }}\n'
        for kind, tensor in (("input", "x"), ("output", "y"))
    )
    group = "" if "instance_group" in config else "instance_group [{ count: 1 }]"
    (folder / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "python"\n{tensors}{group}\n{config}\n'
    )
    return order(folder, name)


def order(folder: Path, name: str, **fields: Any) -> ProofOrder:
    """The order to prove what lies staged in ``folder / name``."""
    return ProofOrder(name, folder / name, fields.pop("version", 1), read_config(folder, name),
                      **fields)  # fmt: skip


def configure(folder: Path, name: str, text: str) -> None:
    """Adds something to a staged model's configuration."""
    path = folder / name / "config.pbtxt"
    path.write_text(f"{path.read_text()}\n{text}\n")


def reference(folder: Path, added: float = 1.0, rows: tuple[int, ...] = (1, 3)) -> Reference:
    """What an original that adds so much answered to a case of each number of rows."""
    generator = numpy.random.default_rng(0)
    recorded = []
    for count in rows:
        x = generator.random((count, 4), numpy.float32)
        recorded.append(Recorded(Case({"batch": count}), {"x": x}, {"y": x + numpy.float32(added)}))
    return Reference.record(folder / f"reference-{added}", recorded)
