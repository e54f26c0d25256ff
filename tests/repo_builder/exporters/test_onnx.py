from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from repo_builder import onnx_files
from repo_builder.exporters.onnx import OnnxExporter
from repo_builder.judging.runners import OnnxRunner
from repo_builder.signature import Signature, Tensor, read_signature
from repo_builder.sources.base import Checkpoint, InputField
from tests.repo_builder.exporters import modules
from tests.repo_builder.exporters.modules import (
    PAIRS,
    ROWS,
    SEQUENCES,
    Branching,
    Module,
    TwoInputs,
    checkpoint,
    scripted,
)
from tritonfleet.errors import ExportFailed, ParityFailed

pytestmark = pytest.mark.build
torch = pytest.importorskip("torch")


def export(folder: Path, made: Checkpoint, **spec) -> Path:
    return modules.export(OnnxExporter, folder, made, **spec)


def prove(folder: Path, made: Checkpoint, path: Path):
    return modules.prove(OnnxExporter, OnnxRunner, folder, made, path)


def test_the_artifact_has_the_names_and_axes_asked_for(tmp_path):
    made = checkpoint(lambda m, x: (m.linear(x), x.sum(-1)), SEQUENCES, ("y", "total"))
    assert read_signature("m", export(tmp_path, made)) == Signature(
        (Tensor("x", "FP32", ("batch", "sequence", 4)),),
        (Tensor("y", "FP32", ("batch", "sequence", 4)),
         Tensor("total", "FP32", ("batch", "sequence"))),
    )  # fmt: skip


def test_it_computes_what_the_original_computes(tmp_path):
    made = checkpoint(lambda m, x: torch.softmax(m.linear(x), -1), SEQUENCES)
    path = export(tmp_path, made)
    record = prove(tmp_path, made, path)
    assert record.worst < 1e-5 and record.cases == 6


@pytest.mark.parametrize("name", ["softmax", "linear", "x__inner", "val_0"])
def test_an_output_may_be_called_like_an_operator(tmp_path, name):
    made = checkpoint(lambda m, x: torch.softmax(m.linear(x), -1) * 2, outputs=(name,))
    path = export(tmp_path, made)
    assert read_signature("m", path).outputs[0].name == name
    prove(tmp_path, made, path)


@pytest.mark.parametrize("opset", [20, 22])
def test_operator_set_and_format_are_those_that_servers_load(tmp_path, opset):
    model = onnx.load(str(export(tmp_path, checkpoint(lambda m, x: m.linear(x)), opset=opset)))
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == opset
    assert model.ir_version <= 10


def test_nothing_in_the_artifact_tells_where_it_was_built(tmp_path):
    path = export(tmp_path, checkpoint(lambda m, x: m.linear(x)))
    model = onnx.load(str(path))
    assert b"stack_trace" not in path.read_bytes()
    assert Path(__file__).name.encode() not in path.read_bytes()
    assert not any(node.metadata_props for node in model.graph.node)


def test_the_same_module_gives_the_same_bytes(tmp_path):
    made = checkpoint(lambda m, x: torch.softmax(m.linear(x), -1))
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(export(tmp_path / name, made))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_weights_above_the_limit_lie_beside_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "LARGEST_SINGLE_FILE", 8)
    # Only larger tensors leave the graph.
    wide = torch.nn.Linear(4, 4096)
    made = checkpoint(lambda m, x: wide(x))
    made.module.wide = wide
    path = export(tmp_path, made)
    assert path.with_name("model.onnx.data").stat().st_size > path.stat().st_size
    prove(tmp_path, made, path)


@pytest.mark.parametrize(
    ("function", "cause", "hint"),
    [
        (lambda m, x: x * 2 if x.sum() > 0 else x, "data-dependent", "torch.where"),
        (
            lambda m, x: torch.linalg.svd(x)[1],
            "No ONNX function found",
            "fallbacks: [onnx_torchscript",
        ),
        (lambda m, x: x.reshape(2, 4) * 1, "", "fixes a dimension"),
        (lambda m, x: 1 / 0, "ZeroDivisionError", ""),
        (lambda m, x: x @ torch.ones(5, 5), "fails on a sample", "types and sizes"),
    ],
    ids=["branch", "operator", "axis", "bug", "shape"],
)
def test_a_refusal_is_one_line_with_the_way_out(tmp_path, function, cause, hint):
    with pytest.raises(ExportFailed) as caught:
        export(tmp_path, checkpoint(function))
    text = str(caught.value)
    assert cause.lower() in text.lower() and hint in text
    assert "\n" not in text and "\x1b" not in text and len(text) < 500


def test_more_outputs_than_declared_are_refused(tmp_path):
    with pytest.raises(ExportFailed):
        export(tmp_path, checkpoint(lambda m, x: (x + 1, x + 2), outputs=("y",)))


def test_fewer_inputs_than_declared_are_refused(tmp_path):
    made = checkpoint(lambda m, x: x + 1, {**ROWS, "z": InputField("FP32", ("batch", 4))})
    with pytest.raises(ExportFailed, match="must take the declared inputs"):
        export(tmp_path, made)


def test_inputs_are_named_in_the_order_of_the_forward(tmp_path):
    fields = {"left": InputField("FP32", ("batch", 4)), "right": InputField("FP32", ("batch", 1))}
    made = Checkpoint(TwoInputs().eval(), fields, ("y",))
    assert [tensor.name for tensor in read_signature("m", export(tmp_path, made)).inputs] == [
        "left", "right"
    ]  # fmt: skip


def test_a_corrupted_artifact_does_not_pass(tmp_path):
    made = checkpoint(lambda m, x: m.linear(x))
    path = export(tmp_path, made)
    model = onnx.load(str(path))
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = bytearray(weight.raw_data)
    values[3] ^= 0x40
    weight.raw_data = bytes(values)
    onnx.save(model, str(path))
    with pytest.raises(ParityFailed, match=r"output 'y' .*(differs by|infinite)"):
        prove(tmp_path, made, path)


def test_a_module_in_training_mode_is_refused(tmp_path):
    with pytest.raises(ExportFailed, match=r"in training mode\. Call \.eval\(\)"):
        export(tmp_path, Checkpoint(Module(lambda m, x: x), ROWS, ("y",)))


def test_torchscript_that_cannot_be_converted_is_sent_to_the_exporters_that_take_it(tmp_path):
    class Growing(torch.nn.Module):
        def forward(self, x):
            while bool(x.sum() < 100.0):
                x = x.abs() * 2 + 1
            return x

    with pytest.raises(ExportFailed, match="onnx_torchscript"):
        export(tmp_path, scripted(Growing(), ROWS))


@pytest.mark.parametrize("script", [False, True])
def test_a_branch_on_a_shape_does_not_pass_unseen(tmp_path, script):
    made = scripted(Branching()) if script else Checkpoint(Branching().eval(), SEQUENCES, ("y",))
    path = export(tmp_path, made)
    with pytest.raises(ParityFailed, match="differs by 2"):
        prove(tmp_path, made, path)


@pytest.fixture
def program():
    dynamic = {0: torch.export.Dim("n"), 1: 4}
    example = (torch.ones(2, 4), torch.ones(2, 4))
    return torch.export.export(TwoInputs(), example, dynamic_shapes=(dynamic, dynamic))


def test_an_exported_program_gets_the_declared_names_and_axes(tmp_path, program):
    made = Checkpoint(program.module(), PAIRS, ("y",), program=program)
    path = export(tmp_path, made)
    found = read_signature("m", path)
    assert found.inputs == (
        Tensor("x", "FP32", ("batch", 4)), Tensor("z", "FP32", ("batch", 4))
    )  # fmt: skip
    assert found.outputs == (Tensor("y", "FP32", ("batch", 4)),)
    assert prove(tmp_path, made, path).worst < 1e-6


def test_an_onnx_file_is_copied_as_it_is(tmp_path):
    original = export(tmp_path, checkpoint(lambda m, x: m.linear(x)))
    given = original.rename(tmp_path / "given.onnx")
    (tmp_path / "version").mkdir()
    copied = export(tmp_path / "version", Checkpoint(None, ROWS, ("y",), onnx=given))
    assert copied.name == "model.onnx" and copied.read_bytes() == given.read_bytes()


def test_an_onnx_file_that_is_none_is_told(tmp_path):
    (tmp_path / "given.onnx").write_bytes(b"no model")
    (tmp_path / "version").mkdir()
    given = Checkpoint(None, ROWS, ("y",), onnx=tmp_path / "given.onnx")
    with pytest.raises(ExportFailed, match=r"given\.onnx cannot be read"):
        export(tmp_path / "version", given)
