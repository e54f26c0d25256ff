from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from repo_builder.exporters import onnx as exporter_module
from repo_builder.exporters.onnx import OnnxExporter
from repo_builder.parity import check_parity
from repo_builder.signature import Signature, Tensor, read_signature
from repo_builder.sources.base import Checkpoint, InputField
from tritonfleet.errors import ExportFailed, ParityFailed
from tritonfleet.spec.fleet import ExportSpec, ParitySpec

pytestmark = pytest.mark.build
torch = pytest.importorskip("torch")

ROWS = {"x": InputField("FP32", ("batch", 4))}
SEQUENCES = {"x": InputField("FP32", ("batch", "sequence", 4))}


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
        return a + b


def checkpoint(function, inputs=None, outputs=("y",), longest=None) -> Checkpoint:
    return Checkpoint(Module(function).eval(), inputs or ROWS, outputs, longest=longest)


def export(folder: Path, made: Checkpoint, **spec) -> Path:
    return OnnxExporter().export("m", made, ExportSpec(**spec), folder)


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
    record = check_parity("m", made, path, read_signature("m", path), ParitySpec())
    assert record.worst < 1e-5 and record.cases == 6


@pytest.mark.parametrize("name", ["softmax", "linear", "x__inner", "val_0"])
def test_an_output_may_be_called_like_an_operator(tmp_path, name):
    made = checkpoint(lambda m, x: torch.softmax(m.linear(x), -1) * 2, outputs=(name,))
    path = export(tmp_path, made)
    assert read_signature("m", path).outputs[0].name == name
    check_parity("m", made, path, read_signature("m", path), ParitySpec())


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
    monkeypatch.setattr(exporter_module, "_LARGEST_SINGLE_FILE", 8)
    # Only larger tensors leave the graph.
    wide = torch.nn.Linear(4, 4096)
    made = checkpoint(lambda m, x: wide(x))
    made.module.wide = wide
    path = export(tmp_path, made)
    assert path.with_name("model.onnx.data").stat().st_size > path.stat().st_size
    check_parity("m", made, path, read_signature("m", path), ParitySpec())


@pytest.mark.parametrize(
    ("function", "cause", "hint"),
    [
        (lambda m, x: x * 2 if x.sum() > 0 else x, "data-dependent", "torch.where"),
        (lambda m, x: torch.linalg.svd(x)[1], "No ONNX function found", "no ONNX form"),
        (lambda m, x: x.reshape(2, 4) * 1, "", "fixes a dimension"),
        (lambda m, x: 1 / 0, "ZeroDivisionError", ""),
    ],
    ids=["branch", "operator", "axis", "bug"],
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
        check_parity("m", made, path, read_signature("m", path), ParitySpec())


def test_a_size_that_only_the_artifact_refuses_is_told_with_the_case(tmp_path):
    made = checkpoint(lambda m, x: m.linear(x))
    path = export(tmp_path, made)
    other = Checkpoint(Module(lambda m, x: x), {"x": InputField("FP32", ("batch", 5))}, ("y",))
    with pytest.raises(ParityFailed, match="the artifact fails at batch=1"):
        check_parity("m", other, path, read_signature("m", path), ParitySpec())


def test_a_size_that_the_original_refuses_is_told_with_the_case(tmp_path):
    made = checkpoint(lambda m, x: m.linear(x))
    path = export(tmp_path, made)

    def picky(m, x):
        raise ValueError("at most two rows")

    other = checkpoint(picky)
    with pytest.raises(ParityFailed, match=r"original itself fails at batch=1: .*two rows"):
        check_parity("m", other, path, read_signature("m", path), ParitySpec())


def test_a_file_that_is_no_model_is_told(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    made = checkpoint(lambda m, x: x)
    signature = Signature((Tensor("x", "FP32", ("batch", 4)),), (Tensor("y", "FP32", ("batch",)),))
    with pytest.raises(ParityFailed, match="does not load the artifact"):
        check_parity("m", made, path, signature, ParitySpec())
