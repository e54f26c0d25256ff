"""Modules to export, and how an artifact is held against its original."""

from __future__ import annotations

from pathlib import Path

import pytest

from repo_builder.exporters.base import Exporter
from repo_builder.judging.gates import gate_for
from repo_builder.judging.parity import check_parity, record_reference
from repo_builder.judging.runners import Runner
from repo_builder.sources.base import Checkpoint, InputField
from tritonfleet.server.layout import ParityRecord
from tritonfleet.spec.export import ExportSpec, ParitySpec

torch = pytest.importorskip("torch")

ROWS = {"x": InputField("FP32", ("batch", 4))}
SEQUENCES = {"x": InputField("FP32", ("batch", "sequence", 4))}
PAIRS = {"x": InputField("FP32", ("batch", 4)), "z": InputField("FP32", ("batch", 4))}


class Module(torch.nn.Module):
    """A module that is one function."""

    def __init__(self, function):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


class TwoInputs(torch.nn.Module):
    def forward(self, a, b):
        return a - 2 * b


class Branching(torch.nn.Module):
    """By length: its script keeps both branches, and its trace keeps one."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        if bool(x.shape[1] > 5):
            return self.linear(x)
        return -self.linear(x)


def checkpoint(function, inputs=None, outputs=("y",), longest=None, **more) -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(Module(function).eval(), inputs or ROWS, outputs, longest=longest, **more)


def scripted(module, inputs=SEQUENCES, outputs=("y",)) -> Checkpoint:
    return Checkpoint(torch.jit.script(module.eval()), inputs, outputs)


def export(exporter: type[Exporter], folder: Path, made: Checkpoint, **spec) -> Path:
    return exporter().export("m", made, ExportSpec(**spec), folder)


def prove(
    exporter: type[Exporter], runner: type[Runner], folder: Path, made: Checkpoint, path: Path
) -> ParityRecord:
    """Holds an artifact against its original, as a build does."""
    signature = exporter().signature("m", path, made)
    reference = record_reference("m", made, ParitySpec(), folder / "reference")
    ran = runner("m", path, signature)
    return check_parity("m", ran, reference, signature, gate_for(ParitySpec(), "fp32"))
