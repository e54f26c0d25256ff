from __future__ import annotations

import pytest

from repo_builder.lint.rules.text import without_comments
from tests.repo_builder.lint.builders import change, found, onnx_model, told

PARAMETERS = 'parameters {{ key: "a" value {{ string_value: "{}" }} }}'


@pytest.mark.parametrize(
    "value",
    ["${tokenizer_dir}", "{{ folder }}", "{% if x %}", "<MODEL_DIR>", "TODO", "CHANGE_ME"],
)
def test_a_placeholder_is_found_with_its_line(tmp_path, value):
    onnx_model(tmp_path, more=PARAMETERS.format(value))
    assert found(tmp_path) == ["unfilled-template"]
    assert "m unfilled-template line 8" in told(tmp_path)


def test_a_placeholder_that_keeps_it_from_parsing_is_all_that_is_said(tmp_path):
    change(onnx_model(tmp_path), "max_batch_size: 8", "max_batch_size: ${batch}")
    assert found(tmp_path) == ["unfilled-template"]


@pytest.mark.parametrize(
    "value", ["$$TRITON_MODEL_DIRECTORY/env", "a<b>c", "# no comment", "TODOS"]
)
def test_what_only_looks_like_a_placeholder_is_none(tmp_path, value):
    onnx_model(tmp_path, more=PARAMETERS.format(value) + "\n# TODO: ${later} is a comment")
    assert told(tmp_path) == ""


def test_comments_are_blanked_and_nothing_moves():
    text = "a: \"#1\" # one\nb: '#' #two"
    assert without_comments(text) == "a: \"#1\"      \nb: '#'     "


def test_a_key_given_twice_is_found(tmp_path):
    onnx_model(tmp_path, more=PARAMETERS.format("1") + PARAMETERS.format("2"))
    assert told(tmp_path).startswith("m duplicate-key parameters 'a' is given twice")


def test_a_key_given_twice_deep_inside_is_found(tmp_path):
    warmup = """model_warmup [{ name: "w" batch_size: 1
      inputs { key: "x" value { data_type: TYPE_FP32 dims: [4] zero_data: true } }
      inputs { key: "x" value { data_type: TYPE_FP32 dims: [4] zero_data: true } } }]"""
    onnx_model(tmp_path, more=warmup)
    assert "duplicate-key model_warmup.inputs" in told(tmp_path)
