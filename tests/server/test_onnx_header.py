"""Two numbers of an ONNX file, read past everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tritonfleet.server.onnx_header import OnnxHeader, read_onnx_header


def content(opset=20, ir_version=10, weight=b"", domains=("",)):
    tensor = helper.make_tensor("w", TensorProto.UINT8, [len(weight)], weight, raw=True)
    graph = helper.make_graph([], "g", [], [], [tensor])
    opsets = [helper.make_opsetid(domain, opset) for domain in domains]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="somebody")
    model.ir_version = ir_version
    return model.SerializeToString()


def read(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    return read_onnx_header(path)


@pytest.mark.parametrize(("opset", "ir_version"), [(7, 3), (20, 10), (300, 14)])
def test_both_are_read_past_the_weights(tmp_path, opset, ir_version):
    data = content(opset, ir_version, weight=bytes(100_000))
    assert read(tmp_path, data) == OnnxHeader(opset, ir_version)


def test_operator_sets_of_others_do_not_count(tmp_path):
    assert read(tmp_path, content(domains=("com.microsoft",))) is None
    for domains in (("com.microsoft", "ai.onnx"), ("", "com.microsoft")):
        assert read(tmp_path, content(domains=domains)) == OnnxHeader(20, 10)


def test_a_file_that_ends_too_early_is_none(tmp_path):
    assert read(tmp_path, content(weight=bytes(1000))[:-20]) is None


@pytest.mark.parametrize("data", [b"", b"\0" * 10_000, b"version https://git-lfs", b"\xff" * 99])
def test_rubbish_is_none(tmp_path, data):
    assert read(tmp_path, data) is None


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert read_onnx_header(tmp_path / "model.onnx") is None


def test_a_file_of_endless_small_fields_is_given_up(tmp_path):
    assert read(tmp_path, b"\x08\x0a" * 1_000_000) is None


@given(st.binary(max_size=200), st.integers(0, 60))
def test_no_bytes_do_harm(tmp_path_factory, data, cut):
    folder = tmp_path_factory.mktemp("onnx")
    found = read(folder, content()[:cut] + data)
    assert found is None or (found.opset and found.ir_version)
