from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.config.tensors import volumes
from tests.repo_builder.lint.builders import change, found, onnx_model, python_model, told, write

INPUT = 'input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]'


@pytest.fixture
def model(tmp_path):
    return python_model(tmp_path)


@pytest.mark.parametrize(
    ("replacement", "rule"),
    [
        (INPUT + INPUT, "duplicate-tensor"),
        (INPUT.replace('name: "x"', ""), "tensor-name"),
        (INPUT.replace("data_type: TYPE_FP32", ""), "tensor-type"),
        (INPUT.replace("dims: [4]", ""), "tensor-dims"),
        (INPUT.replace("[4]", "[0]"), "tensor-dims"),
        (INPUT.replace("[4]", "[-2]"), "tensor-dims"),
        (INPUT.replace("[4]", "[4] reshape { shape: [3] }"), "reshape"),
    ],
)
def test_an_impossible_input_is_found(model, replacement, rule):
    change(model, INPUT, replacement)
    assert found(model.parent) == [rule]


@pytest.mark.parametrize("dims", ["[-1]", "[2, -1]", "[4] reshape { shape: [2, 2] }",
                                  "[1] reshape { shape: [] }"])  # fmt: skip
def test_possible_dims_are_no_mistake(model, dims):
    change(model, "dims: [4] }]\noutput", f"dims: {dims} }}]\noutput")
    assert told(model.parent) == ""


def test_a_negative_batch_is_found(model):
    change(model, "max_batch_size: 8", "max_batch_size: -1")
    assert found(model.parent) == ["batch-size"]


def test_tensors_left_to_the_server_are_found(tmp_path):
    change(onnx_model(tmp_path), INPUT, "")
    assert found(tmp_path) == ["no-tensors"]


def labelled(tmp_path, name, lines):
    model = python_model(tmp_path)
    text = (model / "config.pbtxt").read_text().rstrip()
    (model / "config.pbtxt").write_text(f'{text[:-2]} label_filename: "{name}" }}]')
    return write(model, {"labels.txt": "\n".join(lines)})


def test_as_many_labels_as_scores_are_no_mistake(tmp_path):
    labelled(tmp_path, "labels.txt", "abcd")
    assert told(tmp_path) == ""


@pytest.mark.parametrize("name", ["absent.txt", "../labels.txt", "/etc/hostname"])
def test_a_label_file_that_is_not_in_the_folder_is_found(tmp_path, name):
    labelled(tmp_path, name, "abcd")
    assert found(tmp_path) == ["label-file"]


def test_too_few_labels_are_found(tmp_path):
    labelled(tmp_path, "labels.txt", "abc")
    assert found(tmp_path) == ["label-count"]


@given(st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=4))
def test_a_shape_can_always_become_itself(dims):
    assert volumes(dims) == volumes(dims)


@given(st.lists(st.integers(1, 5), max_size=4))
def test_a_shape_can_become_flat(dims):
    size = 1
    for each in dims:
        size *= each
    assert volumes(dims) == volumes([size])
    assert volumes(dims) != volumes([size + 1])
