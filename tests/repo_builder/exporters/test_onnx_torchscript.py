from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from repo_builder import onnx_files
from repo_builder.exporters.onnx_torchscript import OnnxTorchScriptExporter
from repo_builder.judging.runners import OnnxRunner
from repo_builder.signature import Signature, Tensor, read_signature
from repo_builder.sources.base import Checkpoint
from tests.repo_builder.builders import names
from tests.repo_builder.exporters import modules
from tests.repo_builder.exporters.modules import (
    PAIRS,
    ROWS,
    SEQUENCES,
    Branching,
    checkpoint,
)
from tritonfleet.errors import ExportFailed

pytestmark = pytest.mark.build
torch = pytest.importorskip("torch")


def export(folder: Path, made: Checkpoint, **spec) -> Path:
    return modules.export(OnnxTorchScriptExporter, folder, made, **spec)


def prove(folder: Path, made: Checkpoint, path: Path):
    return modules.prove(OnnxTorchScriptExporter, OnnxRunner, folder, made, path)


def test_the_artifact_has_the_names_and_axes_asked_for(tmp_path):
    made = checkpoint(lambda m, x: (m.linear(x), x.sum(-1)), SEQUENCES, ("y", "total"))
    path = export(tmp_path, made)
    assert read_signature("m", path) == Signature(
        (Tensor("x", "FP32", ("batch", "sequence", 4)),),
        (Tensor("y", "FP32", ("batch", "sequence", 4)),
         Tensor("total", "FP32", ("batch", "sequence"))),
    )  # fmt: skip
    assert prove(tmp_path, made, path).worst < 1e-6


def test_an_axis_that_follows_no_dimension_alone_gets_a_name_of_its_own(tmp_path):
    made = checkpoint(lambda m, x: x[:, 1:].flatten(1), SEQUENCES)
    (output,) = read_signature("m", export(tmp_path, made)).outputs
    assert output.shape == ("batch", "y_1")


def test_an_output_keeps_a_size_that_the_trace_loses(tmp_path):
    made = checkpoint(lambda m, x: torch.nn.functional.normalize(m.linear(x).sum(1)), SEQUENCES)
    (output,) = read_signature("m", export(tmp_path, made)).outputs
    assert output.shape == ("batch", 4)


def test_operator_set_and_format_are_those_that_servers_load(tmp_path):
    model = onnx.load(str(export(tmp_path, checkpoint(lambda m, x: m.linear(x)), opset=19)))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 19)]
    assert model.ir_version <= 10


def test_an_operator_set_that_tracing_does_not_know_is_refused(tmp_path):
    with pytest.raises(ExportFailed, match=r"ends at opset 20.*Set export\.opset to 20"):
        export(tmp_path, checkpoint(lambda m, x: m.linear(x)), opset=22)


def test_it_leaves_nothing_but_the_artifact_and_no_path_in_it(tmp_path):
    path = export(tmp_path, checkpoint(lambda m, x: m.linear(x)))
    assert names(tmp_path) == ["model.onnx"]
    assert b".py" not in path.read_bytes()


def test_the_same_module_gives_the_same_bytes(tmp_path):
    made = checkpoint(lambda m, x: torch.softmax(m.linear(x), -1))
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(export(tmp_path / name, made))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_weights_above_the_limit_lie_beside_the_graph_in_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "LARGEST_SINGLE_FILE", 8)
    wide, wider = torch.nn.Linear(4, 4096), torch.nn.Linear(4096, 1024)
    made = checkpoint(lambda m, x: wider(wide(x)))
    made.module.wide, made.module.wider = wide, wider
    path = export(tmp_path, made)
    assert names(tmp_path) == ["model.onnx", "model.onnx.data"]
    prove(tmp_path, made, path)


@pytest.mark.parametrize(
    ("function", "cause", "hint"),
    [
        (lambda m, x: x * 2 if x.sum() > 0 else x, "differs from it on another", "kind: python"),
        (lambda m, x: x + torch.rand(4), "differs from it on another", "is random"),
        (lambda m, x: torch.linalg.svd(x)[1], "aten::linalg_svd", "fallbacks: [pytorch]"),
        (lambda m, x: x.reshape(2, 4) * 1, "fails at batch=1", "as numbers"),
        (lambda m, x: (x, x), "gives 2 outputs, declared are 1", "in the declared order"),
    ],
    ids=["branch", "random", "operator", "axis", "outputs"],
)
def test_a_refusal_is_one_line_with_the_way_out(tmp_path, function, cause, hint):
    with pytest.raises(ExportFailed) as caught:
        export(tmp_path, checkpoint(function))
    assert cause in str(caught.value) and hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_input_without_influence_is_refused(tmp_path):
    class FirstOnly(torch.nn.Module):
        def forward(self, a, b):
            return a * 2

    with pytest.raises(ExportFailed, match="input 'z' has no influence"):
        export(tmp_path, Checkpoint(FirstOnly().eval(), PAIRS, ("y",)))


def test_a_module_in_training_mode_is_refused(tmp_path):
    with pytest.raises(ExportFailed, match="in training mode"):
        export(tmp_path, Checkpoint(Branching(), SEQUENCES, ("y",)))


def test_a_source_without_module_is_refused(tmp_path):
    file = Checkpoint(None, ROWS, ("y",), onnx=tmp_path / "x")
    with pytest.raises(ExportFailed, match="no module to trace"):
        export(tmp_path, file)
