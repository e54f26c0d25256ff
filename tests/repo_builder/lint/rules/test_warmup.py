from __future__ import annotations

import pytest

from tests.repo_builder.lint.builders import change, found, python_model, told, write

GOOD = 'key: "x" value { data_type: TYPE_FP32 dims: [4] zero_data: true }'


def warm(*inputs: str, batch: int = 8) -> str:
    listed = " ".join(f"inputs {{ {each} }}" for each in inputs)
    return f'model_warmup [{{ name: "w" batch_size: {batch} {listed} }}]'


def test_a_correct_warm_up_is_no_mistake(tmp_path):
    python_model(tmp_path, more=warm(GOOD))
    assert told(tmp_path) == ""


@pytest.mark.parametrize(
    ("more", "rules"),
    [
        (warm(), ["warmup-inputs"]),
        (warm(GOOD, GOOD.replace('"x"', '"z"')), ["warmup-inputs"]),
        (warm(GOOD.replace("FP32", "FP16")), ["warmup-shape"]),
        (warm(GOOD.replace("[4]", "[5]")), ["warmup-shape"]),
        (warm(GOOD.replace("[4]", "[4, 1]")), ["warmup-shape"]),
        (warm(GOOD.replace("[4]", "[-1]")), ["warmup-shape"]),
        (warm(GOOD, batch=9), ["warmup-batch"]),
        (warm(GOOD.replace("zero_data", "random_data")), ["warmup-random"]),
        (warm(GOOD.replace("zero_data: true", 'input_data_file: "absent"')), ["warmup-file"]),
        (warm(GOOD.replace("zero_data: true", 'input_data_file: "../x"')), ["warmup-file"]),
    ],
)
def test_a_warm_up_that_fails_or_proves_nothing_is_found(tmp_path, more, rules):
    python_model(tmp_path, more=more)
    assert found(tmp_path) == rules


def test_optional_inputs_need_not_be_given(tmp_path):
    model = python_model(tmp_path, more=warm())
    change(model, "dims: [4] }]\noutput", "dims: [4] optional: true }]\noutput")
    assert told(tmp_path) == ""


def test_a_file_of_data_is_looked_for_in_the_folder_of_warm_ups(tmp_path):
    more = warm(GOOD.replace("zero_data: true", 'input_data_file: "x.bin"'))
    write(python_model(tmp_path, more=more), {"warmup/x.bin": bytes(16)})
    assert told(tmp_path) == ""
