from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from repo_builder.exporters.pytorch import PytorchExporter, PytorchRunner
from repo_builder.signature import Signature, Tensor
from repo_builder.sources.base import Checkpoint, InputField
from tests.repo_builder.builders import names, signature
from tests.repo_builder.exporters import modules
from tests.repo_builder.exporters.modules import (
    ROWS,
    SEQUENCES,
    Branching,
    TwoInputs,
    checkpoint,
    scripted,
)
from tritonfleet.errors import ExportFailed, ParityFailed

pytestmark = pytest.mark.build
torch = pytest.importorskip("torch")


def export(folder: Path, made: Checkpoint) -> Path:
    return modules.export(PytorchExporter, folder, made)


def prove(folder: Path, made: Checkpoint, path: Path):
    return modules.prove(PytorchExporter, PytorchRunner, folder, made, path)


def test_shapes_and_types_of_the_outputs_are_those_it_gives(tmp_path):
    made = checkpoint(
        lambda m, x: (m.linear(x), x.sum(-1) > 0, x.flatten(1)), SEQUENCES, ("y", "sign", "flat")
    )
    path = export(tmp_path, made)
    assert PytorchExporter().signature("m", path, made) == Signature(
        (Tensor("x", "FP32", ("batch", "sequence", 4)),),
        (Tensor("y", "FP32", ("batch", "sequence", 4)),
         Tensor("sign", "BOOL", ("batch", "sequence")),
         Tensor("flat", "FP32", ("batch", "?"))),
    )  # fmt: skip


def test_it_computes_what_the_original_computes_whatever_onnx_lacks(tmp_path):
    made = checkpoint(lambda m, x: torch.linalg.det(x @ x.mT + torch.eye(3)), {
        "x": InputField("FP32", ("batch", 3, 4))
    })  # fmt: skip
    assert prove(tmp_path, made, export(tmp_path, made)).worst < 1e-5


def test_nothing_in_the_artifact_tells_where_it_was_built(tmp_path):
    path = export(tmp_path, checkpoint(lambda m, x: m.linear(x)))
    assert names(tmp_path) == ["model.pt"]
    with zipfile.ZipFile(path) as archive:
        contents = b"".join(archive.read(name) for name in archive.namelist())
    assert b"site-packages" not in contents
    assert os.fsencode(Path(__file__).parent) not in contents


def test_writing_the_same_trace_again_gives_the_same_bytes(tmp_path):
    made = scripted(Branching())
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(export(tmp_path / name, made))
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("function", "cause", "hint"),
    [
        (lambda m, x: x * 2 if x.sum() > 0 else x, "differs from it on another", "kind: python"),
        (lambda m, x: torch.from_numpy(x.numpy() * 2), "differs from it", "kind: python"),
        (lambda m, x: x.reshape(2, 4) * 1, "fails at batch=1", "as numbers"),
        (lambda m, x: (x, x), "gives 2 outputs, declared are 1", "in the declared order"),
    ],
    ids=["branch", "numpy", "axis", "outputs"],
)
def test_a_refusal_is_one_line_with_the_way_out(tmp_path, function, cause, hint):
    with pytest.raises(ExportFailed) as caught:
        export(tmp_path, checkpoint(function))
    assert cause in str(caught.value) and hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(("b", "a"), ("y",)), (("x__1", "x__0"), ("y",))],
    ids=["arguments", "numbers"],
)
def test_names_that_the_official_backend_would_take_in_another_order_are_refused(
    tmp_path, inputs, outputs
):
    fields = {name: InputField("FP32", ("batch", 4)) for name in inputs}
    with pytest.raises(ExportFailed, match="order"):
        export(tmp_path, Checkpoint(TwoInputs().eval(), fields, outputs))


def test_names_in_order_are_accepted_by_argument_by_number_and_otherwise(tmp_path):
    for inputs in (("a", "b"), ("x__0", "x__1"), ("left", "right")):
        fields = {name: InputField("FP32", ("batch", 4)) for name in inputs}
        made = Checkpoint(TwoInputs().eval(), fields, ("y",))
        assert export(tmp_path, made).is_file()


def test_a_type_that_triton_does_not_serve_is_refused(tmp_path):
    made = checkpoint(lambda m, x: torch.complex(x, x))
    with pytest.raises(ExportFailed, match="output 'y' is complex64"):
        export(tmp_path, made)


def test_a_damaged_artifact_is_told(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"no model")
    with pytest.raises(ParityFailed, match="TorchScript does not load the artifact"):
        PytorchRunner("m", tmp_path / "model.pt", signature("x FP32 batch", "y FP32 batch"))


def test_a_source_without_module_is_refused(tmp_path):
    with pytest.raises(ExportFailed, match="no module to trace"):
        export(tmp_path, Checkpoint(None, ROWS, ("y",), onnx=tmp_path / "x"))
