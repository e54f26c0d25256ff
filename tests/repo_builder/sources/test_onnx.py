from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from repo_builder.exporters.onnx import OnnxExporter
from repo_builder.signature import read_signature
from repo_builder.sources.base import InputField, SourceContext
from repo_builder.sources.onnx import OnnxSource
from tests.repo_builder.sources.comparing import loaded, worst_differences
from tritonfleet.errors import BuildError, ExportFailed, SourceUnavailable
from tritonfleet.spec.export import ExportSpec, ParitySpec
from tritonfleet.spec.sources import OnnxSource as OnnxSpec

FLOAT = TensorProto.FLOAT


@pytest.fixture
def context(tmp_path):
    return SourceContext("m", tmp_path, tmp_path / "repository")


def spec(path: str = "m.onnx") -> OnnxSpec:
    return OnnxSpec(kind="onnx", path=path)


def graph_model(shape=("N", 4), opset=20, ir_version=10, kind=FLOAT, name="x"):
    """A product x @ w, or x itself where x holds no floats."""
    x = helper.make_tensor_value_info(name, kind, shape)
    weights = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")
    if kind == FLOAT:
        node, out = helper.make_node("MatMul", [name, "w"], ["y"]), (*shape[:-1], 3)
    else:
        node, out = helper.make_node("Identity", [name], ["y"]), shape
    y = helper.make_tensor_value_info("y", kind, out)
    graph = helper.make_graph([node], "g", [x], [y], [weights] if kind == FLOAT else [])
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def save(folder: Path, model=None, name: str = "m.onnx", **external) -> Path:
    path = folder / name
    onnx.save_model(model or graph_model(), str(path), **external)
    return path


def save_outside(folder: Path, location: str = "weights.bin") -> Path:
    return save(
        folder, save_as_external_data=True, location=location, size_threshold=0,
        convert_attribute=False,
    )  # fmt: skip


def test_a_file_says_itself_what_it_takes_and_gives(context, tmp_path):
    path = save(tmp_path)
    checkpoint = loaded(OnnxSource(), spec(), context)
    assert checkpoint.onnx == path and checkpoint.module is None
    assert checkpoint.inputs == {"x": InputField("FP32", ("batch", 4))}
    assert checkpoint.outputs == ("y",)
    assert checkpoint.batched
    assert checkpoint.facts["opset"] == {"ai.onnx": 20}


def test_a_folder_with_one_file_will_do(context, tmp_path):
    (tmp_path / "folder").mkdir()
    path = save(tmp_path / "folder", name="anything.onnx")
    assert loaded(OnnxSource(), spec("folder"), context).onnx == path


@pytest.mark.parametrize("names", [(), ("a.onnx", "b.onnx")])
def test_a_folder_with_none_or_several_is_asked_about(context, tmp_path, names):
    (tmp_path / "folder").mkdir()
    for name in names:
        save(tmp_path / "folder", name=name)
    with pytest.raises(SourceUnavailable, match=r"should hold one \.onnx.*Name the file itself"):
        loaded(OnnxSource(), spec("folder"), context)


def test_weights_beside_the_file_come_along(context, tmp_path):
    save_outside(tmp_path)
    checkpoint = loaded(OnnxSource(), spec(), context)
    (tmp_path / "1").mkdir()
    copied = OnnxExporter().export("m", checkpoint, ExportSpec(), tmp_path / "1")
    assert read_signature("m", copied).outputs[0].shape == ("N", 3)
    assert max(worst_differences(checkpoint, copied).values()) == 0


def test_they_are_part_of_its_state_and_other_files_are_not(context, tmp_path):
    save_outside(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    state = OnnxSource().state(spec(), context, lambda path: path.name)
    assert state == {"digest": "m.onnx", "data": {"weights.bin": "weights.bin"}}


def test_a_file_that_holds_its_weights_is_all_of_its_state(context, tmp_path):
    save(tmp_path)
    (tmp_path / "weights.bin").write_text("x")
    assert OnnxSource().state(spec(), context, lambda path: path.name) == {"digest": "m.onnx"}


def test_weights_that_are_missing_are_named(context, tmp_path):
    save_outside(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(SourceUnavailable, match=r"'weights\.bin', which is missing"):
        loaded(OnnxSource(), spec(), context)


@pytest.mark.parametrize("place", ["../secret", "/etc/hostname", "sub/../../secret"])
def test_weights_outside_the_folder_are_refused(tmp_path, place):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(48))
    save_outside(folder)
    model = onnx.load(str(folder / "m.onnx"), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = place if entry.key == "location" else entry.value
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SourceUnavailable, match="outside its own folder"):
        loaded(OnnxSource(), spec(), SourceContext("m", folder, tmp_path / "repository"))


def test_a_link_to_weights_elsewhere_is_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_outside(folder)
    (folder / "weights.bin").rename(tmp_path / "elsewhere")
    (folder / "weights.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceUnavailable, match="outside its own folder"):
        loaded(OnnxSource(), spec(), SourceContext("m", folder, tmp_path / "repository"))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 50])
def test_a_file_that_is_no_model_is_told(context, tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(SourceUnavailable, match=r"m\.onnx"):
        loaded(OnnxSource(), spec(), context)


def test_a_truncated_file_is_told(context, tmp_path):
    path = save(tmp_path)
    content = path.read_bytes()
    for keep in (len(content) // 3, len(content) - 5):
        path.write_bytes(content[:keep])
        with pytest.raises(SourceUnavailable, match=r"cannot be read|is invalid"):
            loaded(OnnxSource(), spec(), context)


@pytest.mark.parametrize("fields", [{"ir_version": 14}, {"opset": 28}])
def test_a_format_newer_than_the_runtime_is_told_with_one_that_loads(context, tmp_path, fields):
    save(tmp_path, graph_model(**fields))
    with pytest.raises(
        ExportFailed, match=r"does not load .*older ir_version and opset: 10 and 20"
    ):
        loaded(OnnxSource(), spec(), context)


def test_an_operator_that_the_runtime_lacks_is_told(context, tmp_path):
    model = graph_model()
    model.graph.node[0].op_type, model.graph.node[0].domain = "Nothing", "example.com"
    model.opset_import.append(helper.make_opsetid("example.com", 1))
    save(tmp_path, model)
    with pytest.raises(ExportFailed, match="Nothing"):
        loaded(OnnxSource(), spec(), context)


@pytest.mark.parametrize("kind", [TensorProto.COMPLEX64, TensorProto.BFLOAT16])
def test_types_that_cannot_be_served_are_told(context, tmp_path, kind):
    save(tmp_path, graph_model(kind=kind))
    with pytest.raises(BuildError, match=r"COMPLEX64|BF16|BFLOAT16|bfloat16"):
        loaded(OnnxSource(), spec(), context)


def test_an_output_that_is_no_tensor_is_told(context, tmp_path):
    model = graph_model()
    model.graph.node.append(helper.make_node("SequenceConstruct", ["y"], ["all"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("all", FLOAT, None))
    save(tmp_path, model)
    with pytest.raises(ExportFailed, match=r"'all' is a sequence.*zipmap=False"):
        loaded(OnnxSource(), spec(), context)


def test_a_tensor_of_unknown_rank_is_told(context, tmp_path):
    model = graph_model()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    save(tmp_path, model)
    with pytest.raises(ExportFailed, match="how many dimensions"):
        loaded(OnnxSource(), spec(), context)


def test_nameless_dimensions_at_one_place_are_tried_together(context, tmp_path):
    save(tmp_path, graph_model(shape=(None, None, 4)))
    checkpoint = loaded(OnnxSource(), spec(), context)
    assert checkpoint.inputs["x"].shape == ("dim_0", "dim_1", 4)
    assert not checkpoint.batched and checkpoint.dimensions == ("dim_0", "dim_1")


def test_ids_stay_within_the_table_they_are_looked_up_in(context, tmp_path):
    model = graph_model(kind=TensorProto.INT64, name="ids")
    table = numpy_helper.from_array(np.ones((17, 2), dtype=np.float32), "table")
    model.graph.initializer.append(table)
    model.graph.node.append(helper.make_node("Gather", ["table", "ids"], ["rows"]))
    model.graph.output.append(helper.make_tensor_value_info("rows", FLOAT, ("N", 4, 2)))
    save(tmp_path, model)
    field = loaded(OnnxSource(), spec(), context).inputs["ids"]
    drawn = field.sample({"batch": 200}, np.random.default_rng(0))
    assert field.high == 17 and drawn.max() == 16


def test_a_mask_is_sampled_as_one(context, tmp_path):
    save(tmp_path, graph_model(kind=TensorProto.INT64, name="attention_mask", shape=("N", "S")))
    checkpoint = loaded(OnnxSource(), spec(), context)
    drawn = checkpoint.inputs["attention_mask"].sample(
        {"batch": 9, "S": 7}, np.random.default_rng()
    )
    assert set(np.unique(drawn)) <= {0, 1} and (drawn[:, 0] == 1).all()


def test_texts_are_made_up_for_text_inputs(context, tmp_path):
    path = save(tmp_path, graph_model(kind=TensorProto.STRING, name="text"))
    checkpoint = loaded(OnnxSource(), spec(), context)
    sample = checkpoint.sample({"batch": 3}, np.random.default_rng(0))
    assert sample["text"].shape == (3, 4) and sample["text"].dtype.kind == "U"
    assert read_signature("m", path).inputs[0].dtype == "BYTES"


def test_what_the_original_says_is_what_the_file_says(context, tmp_path):
    path = save(tmp_path, graph_model(shape=("N", "S", 4)))
    checkpoint = loaded(OnnxSource(), spec(), context)
    worst = worst_differences(checkpoint, path, ParitySpec(dimensions={"S": (1, 7)}))
    assert len(worst) == 4 and max(worst.values()) < 1e-6
