"""What both exporters that trace have in common."""

from __future__ import annotations

import pytest

from repo_builder.exporters.onnx_torchscript import OnnxTorchScriptExporter
from repo_builder.exporters.pytorch import PytorchExporter, PytorchRunner
from repo_builder.judging.runners import OnnxRunner
from repo_builder.sources.base import Checkpoint
from tests.repo_builder.exporters import modules
from tests.repo_builder.exporters.modules import (
    PAIRS,
    SEQUENCES,
    Branching,
    TwoInputs,
    scripted,
)
from tritonfleet.errors import ParityFailed

pytestmark = pytest.mark.build
torch = pytest.importorskip("torch")


@pytest.fixture(
    params=[(OnnxTorchScriptExporter, OnnxRunner), (PytorchExporter, PytorchRunner)],
    ids=["onnx_torchscript", "pytorch"],
)
def prove(request, tmp_path):
    """Exports a checkpoint and holds the result against it."""
    exporter, runner = request.param

    def call(made: Checkpoint):
        return modules.prove(
            exporter, runner, tmp_path, made, modules.export(exporter, tmp_path, made)
        )

    return call


def test_torchscript_keeps_its_branches(prove):
    assert prove(scripted(Branching())).worst < 1e-6


def test_a_trace_that_lost_a_branch_on_a_shape_does_not_pass(prove):
    with pytest.raises(ParityFailed, match="differs by 2"):
        prove(Checkpoint(Branching().eval(), SEQUENCES, ("y",)))


def test_an_exported_program_is_taken_too(prove):
    dynamic = {0: torch.export.Dim("n"), 1: 4}
    example = (torch.ones(2, 4), torch.ones(2, 4))
    program = torch.export.export(TwoInputs(), example, dynamic_shapes=(dynamic, dynamic))
    made = Checkpoint(program.module(), PAIRS, ("y",), program=program)
    assert prove(made).worst < 1e-6
