from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from repo_builder.compatibility import Needs, facts, oldest_release, read_needs
from tritonfleet.server.releases import ONNX_RUNTIMES


@pytest.mark.parametrize(
    ("opset", "ir_version", "onnxruntime", "triton"),
    [
        (18, 8, "1.16", "23.11"),
        (20, 9, "1.17", "24.03"),
        (20, 10, "1.18", "24.05"),
        (22, 10, "1.21", "25.03"),
        (23, 10, "1.23", "25.08"),
        (20, 13, "1.24", "26.02"),
    ],
)
def test_the_oldest_release_knows_both_operator_set_and_format(
    opset, ir_version, onnxruntime, triton
):
    release = oldest_release(Needs(opset, ir_version))
    assert release is not None
    assert (release.onnxruntime, release.triton) == (onnxruntime, triton)


def test_what_onnx_writes_by_itself_is_too_new_for_all():
    assert oldest_release(Needs(28, 14)) is None


def test_signed_convolutions_need_a_runtime_that_no_triton_brings_yet():
    release = oldest_release(Needs(20, 10, signed_convolutions=True))
    assert release is not None and release.onnxruntime == "1.31" and release.triton is None


@given(st.integers(7, 28), st.integers(3, 14), st.integers(0, 3), st.integers(0, 3))
def test_a_file_that_asks_for_more_never_loads_earlier(opset, ir_version, more, newer):
    order = [*ONNX_RUNTIMES, None]
    less = oldest_release(Needs(opset, ir_version))
    assert order.index(less) <= order.index(oldest_release(Needs(opset + more, ir_version + newer)))


def saved(folder, element=TensorProto.UINT8, domains=()):
    tensor = {"x": TensorProto.UINT8, "y": TensorProto.INT32}
    value = {n: helper.make_tensor_value_info(n, t, [1, 1, 2, 2]) for n, t in tensor.items()}
    weight = helper.make_tensor("w", element, [1, 1, 1, 1], [1])
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [value["x"]], [value["y"]], [weight])
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(name, 1) for name in domains)]
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_signed_convolution_weights_are_seen_in_the_file(tmp_path):
    assert not read_needs(saved(tmp_path)).signed_convolutions
    assert read_needs(saved(tmp_path, TensorProto.INT8)).signed_convolutions


def test_the_manifest_tells_what_loads_a_file(tmp_path):
    assert facts(saved(tmp_path)) == {
        "opset": 20,
        "ir_version": 10,
        "oldest_onnxruntime": "1.18",
        "oldest_triton": "24.05",
    }


def test_operators_of_onnx_runtime_alone_are_told(tmp_path):
    told = facts(saved(tmp_path, domains=("com.microsoft",)))
    assert told["operator_sets"] == ["com.microsoft"]
    assert told["runs_in"] == "ONNX Runtime only"


def test_a_file_newer_than_every_triton_is_told(tmp_path):
    assert facts(saved(tmp_path, TensorProto.INT8))["oldest_triton"] == "newer than 26.08"
