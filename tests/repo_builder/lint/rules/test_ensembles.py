from __future__ import annotations

import pytest

from tests.repo_builder.lint.builders import change, found, python_model, told, write
from tests.repo_builder.lint.test_ten_mistakes import ENSEMBLE

FIRST = 'input_map { key: "x" value: "x" } output_map { key: "y" value: "between" }'
SECOND = 'input_map { key: "x" value: "between" } output_map { key: "y" value: "y" }'
STEP = '{ model_name: "second" model_version: -1\n'
INPUT = 'input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]'


@pytest.fixture
def repository(tmp_path):
    """Two members and the ensemble that puts one behind the other."""
    python_model(tmp_path, "first")
    python_model(tmp_path, "second")
    write(tmp_path / "pipeline", {"config.pbtxt": ENSEMBLE, "1/.keep": ""})
    return tmp_path


def edit(repository, old, new, model="pipeline"):
    change(repository / model, old, new)


def test_a_correct_ensemble_has_no_findings(repository):
    assert told(repository) == ""


@pytest.mark.parametrize(
    ("old", "new", "rules"),
    [
        ('model_name: "second"', 'model_name: "secnd"', ["unknown-member"]),
        ('"second" model_version: -1', '"second" model_version: 7', ["member-version"]),
        (SECOND, SECOND.replace('key: "x"', 'key: "z"'), ["step-input", "step-tensor"]),
        (SECOND, SECOND.replace('key: "y"', 'key: "z"'), ["step-tensor"]),
        (SECOND, SECOND.replace('"between"', '"betwen"'), ["unreachable-step", "idle-step"]),
        (SECOND, SECOND.replace('"between"', '"y"'), ["unreachable-step", "idle-step"]),
        (SECOND, SECOND.replace('value: "y"', 'value: "z"'), ["output-unmade", "idle-step"]),
        (FIRST, FIRST.replace('"between"', '"y"'), ["unreachable-step", "written-twice"]),
        (INPUT, INPUT.replace("}]", '}, { name: "z" data_type: TYPE_FP32 dims: [1] }]'),
         ["input-unused"]),
        ('platform: "ensemble"', "", ["ensemble-option"]),
        ('platform: "ensemble"', 'platform: "ensemble" instance_group [{ count: 1 }]',
         ["ensemble-option"]),
        ('platform: "ensemble"', 'platform: "ensemble" optimization { eager_batching: true }',
         ["ensemble-option"]),
        ("max_batch_size: 8", "max_batch_size: 16", ["member-batch"] * 2),
        (INPUT, INPUT.replace("FP32", "INT64"), ["joint-type"]),
        (INPUT, INPUT.replace("[4]", "[5]"), ["joint-shape"]),
        (INPUT, INPUT.replace("[4]", "[-1]"), []),
        (INPUT, INPUT.replace("[4]", "[2, 2] reshape { shape: [4] }"), []),
    ],
)  # fmt: skip
def test_mistakes_in_an_ensemble_are_found(repository, old, new, rules):
    edit(repository, old, new)
    assert set(found(repository)) >= set(rules)
    assert bool(found(repository)) == bool(rules)


def test_a_joint_of_two_members_is_told_with_both(repository):
    edit(repository, INPUT, INPUT.replace("FP32", "INT64"), model="second")
    text = told(repository)
    assert "'between' joins first.y (FP32 [-1, 4]) and second.x (INT64 [-1, 4])" in text


def test_a_misspelt_joint_is_told_with_the_name_that_was_meant(repository):
    edit(repository, SECOND, SECOND.replace('"between"', '"betwen"'))
    assert "Did you mean 'between'?" in told(repository)


def test_a_step_that_changes_nothing_is_found(repository):
    edit(repository, SECOND, SECOND.replace('"between"', '"x"'))
    assert found(repository) == ["idle-step"]


def test_an_output_that_nobody_takes_is_found(repository):
    line = 'output [{ name: "y" data_type: TYPE_FP32 dims: [4] }'
    more = line + ', { name: "z" data_type: TYPE_FP32 dims: [1] }'
    edit(repository, line, more, model="second")
    edit(repository, SECOND, SECOND + ' output_map { key: "z" value: "spare" }')
    assert found(repository) == ["output-unused"]


def test_a_member_without_batches_may_stand_in_a_batched_ensemble(repository):
    for side in ("input", "output"):
        name = "x" if side == "input" else "y"
        line = f'{side} [{{ name: "{name}" data_type: TYPE_FP32 dims: [4] }}]'
        edit(repository, line, line.replace("[4]", "[-1, 4]"), model="second")
    edit(repository, "max_batch_size: 8", "max_batch_size: 0", model="second")
    assert told(repository) == ""


def test_an_optional_input_need_not_be_mapped(repository):
    more = '}, { name: "z" data_type: TYPE_FP32 dims: [1] optional: true }]\noutput'
    edit(repository, "}]\noutput", more, model="second")
    assert told(repository) == ""


def test_a_decoupled_member_is_found(repository):
    edit(repository, 'backend: "python"',
         'backend: "python" model_transaction_policy { decoupled: true }', "second")  # fmt: skip
    assert found(repository) == ["decoupled-member"]


def test_a_member_of_another_namespace_is_not_looked_for(repository):
    edit(repository, STEP, '{ model_name: "other" model_namespace: "far" model_version: -1\n')
    assert told(repository) == ""


def test_a_member_whose_configuration_is_broken_is_that_member_s_finding(repository):
    (repository / "second" / "config.pbtxt").write_text("name: [")
    assert found(repository) == ["config-parse"]


def test_ensembles_that_contain_each_other_are_found(repository):
    other = ENSEMBLE.replace('"pipeline"', '"other"').replace('"second"', '"pipeline"')
    write(repository / "other", {"config.pbtxt": other, "1/.keep": ""})
    assert told(repository) == ""
    edit(repository, '"second"', '"other"')
    assert found(repository) == ["member-cycle", "member-cycle"]


def test_an_ensemble_above_a_circle_is_not_in_it(repository):
    edit(repository, '"second"', '"pipeline"')
    above = ENSEMBLE.replace('name: "pipeline"', 'name: "above"').replace('"second"', '"pipeline"')
    write(repository / "above", {"config.pbtxt": above, "1/.keep": ""})
    assert told(repository).count("member-cycle") == 1


def test_an_ensemble_without_steps_is_found(repository):
    text = ENSEMBLE.partition("ensemble_scheduling")[0] + "ensemble_scheduling { }"
    write(repository / "pipeline", {"config.pbtxt": text})
    assert "empty-ensemble" in found(repository)
