from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from repo_builder import onnx_files
from repo_builder.onnx_files import UnusableFile
from tests.repo_builder.builders import names

ROW = ["batch", 64]


def model(weights=64, domains=()):
    """Two products, one of them inside a branch."""
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "inner"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ROW)],
        [weight("inner", weights)],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "outer"], ["h"], doc_string="/home/me/code.py"),
        helper.make_node("If", ["flag"], ["b"], then_branch=inner, else_branch=inner),
        helper.make_node("Add", ["h", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ROW),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ROW)],
        [weight("outer", weights)],
    )
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(d, 1) for d in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    helper.set_model_props(made, {"made_in": "/home/me"})
    return made


def weight(name, width):
    return numpy_helper.from_array(np.full((64, width), 0.5, np.float32), name)


def saved(folder, **external):
    folder.mkdir(exist_ok=True)
    path = folder / "given.onnx"
    if external:
        external = {"save_as_external_data": True, "size_threshold": 0, **external}
    onnx.save_model(model(), str(path), **external)
    return path


def answer(path):
    import onnxruntime

    inputs = {"x": np.ones((1, 64), np.float32), "flag": np.array(True)}
    return onnxruntime.InferenceSession(str(path)).run(None, inputs)[0]


def test_tidying_leaves_no_trace_of_the_place_and_no_operator_set_without_use(tmp_path):
    made = model(domains=("ai.onnx.ml", "com.microsoft"))
    onnx_files.tidy(made)
    assert [entry.domain for entry in made.opset_import] == [""]
    assert b"/home/me" not in made.SerializeToString()
    onnx.checker.check_model(made, full_check=True)


def test_tidying_keeps_an_operator_set_that_only_a_branch_uses():
    made = model(domains=("com.microsoft",))
    made.graph.node[1].attribute[0].g.node[0].domain = "com.microsoft"
    onnx_files.tidy(made)
    assert [entry.domain for entry in made.opset_import] == ["", "com.microsoft"]


def test_tidying_twice_is_tidying_once():
    made = model(domains=("ai.onnx.ml",))
    onnx_files.tidy(made)
    once = made.SerializeToString(deterministic=True)
    onnx_files.tidy(made)
    assert made.SerializeToString(deterministic=True) == once


def test_nodes_and_constants_of_branches_are_found():
    graph = model().graph
    assert [node.op_type for node in onnx_files.nodes(graph)].count("MatMul") == 3
    assert [tensor.name for tensor in onnx_files.tensors(graph)].count("inner") == 2


@pytest.mark.parametrize("limit", [1 << 30, 8])
def test_what_was_written_is_valid_and_reads_back(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(onnx_files, "LARGEST_SINGLE_FILE", limit)
    path = tmp_path / "model.onnx"
    onnx_files.write(model(), path)
    assert names(tmp_path) == ["model.onnx"] + ["model.onnx.data"] * (limit == 8)
    onnx_files.check(path)
    assert len(onnx_files.read(path).graph.initializer[0].raw_data) == 64 * 64 * 4
    np.testing.assert_array_equal(answer(path), np.full((1, 64), 64.0))


def test_the_size_counts_what_lies_beside_the_file(tmp_path):
    alone = onnx_files.weight_bytes(saved(tmp_path / "alone"))
    beside = saved(tmp_path / "beside", location="weights.bin")
    assert beside.stat().st_size < alone / 2 < onnx_files.weight_bytes(beside)


def test_a_single_file_is_copied_byte_by_byte(tmp_path):
    given = saved(tmp_path / "given")
    (tmp_path / "version").mkdir()
    copied = onnx_files.copy(given, tmp_path / "version")
    assert copied.read_bytes() == given.read_bytes()
    assert names(tmp_path / "version") == ["model.onnx"]


@pytest.mark.parametrize("one", [True, False], ids=["one", "many"])
def test_weights_beside_a_file_are_copied_under_its_new_name(tmp_path, one):
    location = {"location": "weights.bin"} if one else {"all_tensors_to_one_file": False}
    given = saved(tmp_path / "given", **location)
    (tmp_path / "version").mkdir()
    copied = onnx_files.copy(given, tmp_path / "version")
    found = names(tmp_path / "version")
    assert found[:2] == ["model.onnx", "model.onnx.data"]
    assert len(found) == (2 if one else 3)
    np.testing.assert_array_equal(answer(copied), answer(given))


def pointed_elsewhere(folder, place):
    given = saved(folder, location="weights.bin")
    made = onnx.load(given, load_external_data=False)
    for tensor in onnx_files.tensors(made.graph):
        for entry in tensor.external_data:
            entry.value = place if entry.key == "location" else entry.value
    given.write_bytes(made.SerializeToString())
    return given


def test_weights_outside_the_files_own_folder_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(1 << 15))
    for place in ("../secret", str(tmp_path / "secret")):
        given = pointed_elsewhere(tmp_path / "given", place)
        with pytest.raises(UnusableFile, match="outside its own folder"):
            onnx_files.copy(given, tmp_path)


def test_a_link_out_of_the_files_own_folder_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(1 << 15))
    given = pointed_elsewhere(tmp_path / "given", "link")
    (tmp_path / "given/link").symlink_to(tmp_path / "secret")
    with pytest.raises(UnusableFile, match="outside its own folder"):
        onnx_files.copy(given, tmp_path)


def test_missing_weights_are_named(tmp_path):
    given = saved(tmp_path / "given", location="weights.bin")
    (tmp_path / "given/weights.bin").unlink()
    with pytest.raises(UnusableFile, match=r"given\.onnx keeps weights in 'weights\.bin'"):
        onnx_files.copy(given, tmp_path)
    with pytest.raises(UnusableFile, match=r"given\.onnx cannot be read"):
        onnx_files.read(given)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08"])
def test_a_file_that_is_no_model_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UnusableFile) as caught:
        onnx_files.check(path)
    assert "\n" not in str(caught.value)


def test_an_invalid_graph_is_told(tmp_path):
    made = model()
    made.graph.node[2].input[0] = "nowhere"
    path = tmp_path / "model.onnx"
    onnx_files.write(made, path)
    with pytest.raises(UnusableFile, match=r"the file is invalid: .*nowhere"):
        onnx_files.check(path)
