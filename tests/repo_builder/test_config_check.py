from __future__ import annotations

import pytest

from repo_builder.config import render_config
from repo_builder.config_check import check_config, findings
from tests.repo_builder.builders import product, serving
from tritonfleet.errors import InvalidModelConfig

SIGNATURE = product().signature


@pytest.fixture
def config():
    options = serving(max_batch_size=8, dynamic_batching={"preferred_batch_size": [8]}, warmup=[{}])
    message = render_config("m", product(), options).message
    message.output[0].label_filename = "y_labels.txt"
    return message


def found(config, label_files=("y_labels.txt",)) -> str:
    return "\n".join(cause for cause, _ in findings("m", config, SIGNATURE, frozenset(label_files)))


def test_a_good_configuration_has_no_findings(config):
    assert found(config) == ""


def change(config, path, value):
    *way, last = path.split(".")
    for part in way:
        config = config[int(part)] if part.isdigit() else getattr(config, part)
    setattr(config, last, value)


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        ("name", "other", "named 'other'"),
        ("input.0.data_type", 9, "input 'x' is declared INT64 and is FP32"),
        ("output.0.name", "z", "output 'y' of the artifact is not declared"),
        ("instance_group.0.kind", 1, "binds the model to a kind of device"),
        ("instance_group.0.count", 0, "has no count"),
        ("model_warmup.0.batch_size", 9, "warm-up of 9 is above max_batch_size 8"),
        ("max_batch_size", 4, "preferred_batch_size 8 is above max_batch_size 4"),
        ("dynamic_batching.priority_levels", 3, "default_priority_level 0 is not among the 3"),
        ("dynamic_batching.default_priority_level", 1, "without priority_levels"),
        ("output.0.label_filename", "names.txt", "label file 'names.txt' of output 'y'"),
    ],
)
def test_what_a_server_accepts_in_silence_is_found(config, path, value, cause):
    change(config, path, value)
    assert cause in found(config)


@pytest.mark.parametrize("dims", [[], [0], [-2], [5], [4, 1]])
def test_dims_that_are_not_the_artifact_s_are_found(config, dims):
    config.input[0].dims[:] = dims
    assert "input 'x'" in found(config)


def test_a_tensor_declared_twice_is_found(config):
    config.input.add().CopyFrom(config.input[0])
    assert "input 'x' is declared 2 times" in found(config)


def test_a_tensor_the_artifact_has_not_is_found(config):
    config.output.add(name="extra", data_type=11, dims=[1])
    assert "output 'extra' is declared and the artifact has none of that name" in found(config)


def test_a_missing_instance_group_is_found(config):
    del config.instance_group[:]
    assert "has no instance_group" in found(config)


def test_instances_bound_to_gpus_are_found(config):
    config.instance_group[0].gpus.append(0)
    assert "binds the model" in found(config)


def test_instances_of_an_ensemble_are_found(config):
    config.ClearField("dynamic_batching")
    config.ensemble_scheduling.step.add(model_name="a")
    assert "an ensemble has an instance_group" in found(config)


def test_a_policy_for_a_priority_that_is_not_there_is_found(config):
    config.dynamic_batching.priority_queue_policy[2].max_queue_size = 1
    assert "names level 2 of 0" in found(config)


def test_a_warm_up_with_other_inputs_or_sizes_is_found(config):
    config.model_warmup[0].inputs["x"].dims[:] = [5]
    assert "gives 'x' as [5], declared is [4]" in found(config)
    config.model_warmup[0].inputs["z"].dims[:] = [1]
    assert "does not give every input" in found(config)


def test_the_first_finding_is_raised_with_its_hint(config):
    config.name = "other"
    with pytest.raises(InvalidModelConfig, match="Triton wants the folder's name"):
        check_config("m", config, SIGNATURE, frozenset())
