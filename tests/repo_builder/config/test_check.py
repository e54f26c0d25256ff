from __future__ import annotations

import pytest

from repo_builder.config.check import check_config, findings
from repo_builder.config.render import render_config
from tests.repo_builder.builders import product, serving
from tests.repo_builder.config.everything import STATEFUL, configurations
from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.pbtxt import parse_config

SIGNATURE = product().signature
GPU, CPU, MODEL = 1, 2, 3
INT64 = 9


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


def test_instances_may_be_bound_to_gpus_when_somebody_wrote_so(config):
    config.instance_group[0].gpus.append(0)
    assert found(config) == ""
    config.instance_group[0].kind = GPU
    assert found(config) == ""


@pytest.mark.parametrize("kind", [CPU, MODEL])
def test_gpus_of_instances_that_are_not_on_a_gpu_are_found(config, kind):
    config.instance_group[0].gpus.append(0)
    config.instance_group[0].kind = kind
    assert "names gpus, and its kind is not gpu" in found(config)


def test_gpus_named_twice_and_groups_of_one_name_are_found(config):
    config.instance_group[0].gpus.extend([1, 1])
    config.instance_group[0].name = "fast"
    config.instance_group.add().CopyFrom(config.instance_group[0])
    assert "names a GPU twice" in found(config)
    assert "2 instance_groups are named 'fast'" in found(config)


def test_a_model_of_passive_instances_alone_is_found(config):
    config.instance_group[0].passive = True
    assert "every instance_group is passive" in found(config)


def test_a_resource_asked_for_twice_is_found(config):
    for count in (1, 2):
        config.instance_group[0].rate_limiter.resources.add(name="heavy", count=count)
    assert "asks for resource 'heavy' 2 times" in found(config)


def test_a_cache_of_a_decoupled_model_is_found(config):
    config.model_transaction_policy.decoupled = True
    assert found(config) == ""
    config.response_cache.enable = True
    assert "a decoupled model has a response_cache" in found(config)


def test_a_warm_up_of_another_type_is_found(config):
    config.model_warmup[0].inputs["x"].data_type = INT64
    assert "gives 'x' as INT64, declared is FP32" in found(config)


def test_a_warm_up_may_leave_out_what_is_optional(config):
    config.model_warmup[0].inputs.clear()
    assert "does not give every input" in found(config)
    config.input[0].optional = True
    assert found(config) == ""


def test_data_files_that_are_not_there_are_found(config):
    config.model_warmup[0].inputs["x"].input_data_file = "x.bin"
    assert "data file 'warmup/x.bin' of warm-up 'warmup_0' is not there" in found(config)
    assert found(config, ("y_labels.txt", "warmup/x.bin")) == ""


def test_dynamic_dimensions_may_be_fixed_but_not_at_two_sizes():
    signature = product("a FP32 batch n, b FP32 batch n", "y FP32 batch n").signature
    config = parse_config(
        "m",
        'name: "m" max_batch_size: 4 instance_group { count: 1 }'
        'input { name: "a" data_type: TYPE_FP32 dims: 8 }'
        'input { name: "b" data_type: TYPE_FP32 dims: -1 }'
        'output { name: "y" data_type: TYPE_FP32 dims: -1 }',
    )
    assert list(findings("m", config, signature, frozenset())) == []
    config.input[1].dims[:] = [9]
    (found,) = findings("m", config, signature, frozenset())
    assert found[0] == "dimension 'n' is fixed at 8 in 'a' and at 9 in 'b'"


@pytest.mark.parametrize(
    ("dims", "shape", "fits"),
    [
        ([2, 2], [4], True), ([3, 2], [4], False), ([1], [], True), ([2], [], False),
        ([-1, 2], [-1, 2, 1], True), ([-1, 2], [2, -1], False), ([2, -1], [-1, 2], False),
    ],
)  # fmt: skip
def test_a_reshape_keeps_the_volume(config, dims, shape, fits):
    config.input[0].dims[:] = dims
    config.input[0].reshape.shape[:] = shape
    causes = [cause for cause, _ in findings("m", config, None, frozenset({"y_labels.txt"}))]
    assert fits is not any("cannot be reshaped" in cause for cause in causes)


def test_without_an_artifact_the_rest_is_still_found(config):
    config.input[0].dims[:] = [0]
    config.output[0].name = "other"
    causes = [cause for cause, _ in findings("m", config, None, frozenset({"y_labels.txt"}))]
    assert causes[0] == "input 'x' has impossible dims [0]"
    assert "other" not in "".join(causes)


def sequences():
    return configurations()["sequences"].message


def sequence_causes(config):
    files = frozenset(
        {"initial_state/" + config.sequence_batching.state[0].initial_state[0].data_file}
    )
    return "\n".join(cause for cause, _ in findings("sequences", config, STATEFUL.signature, files))


def test_a_good_sequence_model_has_no_findings():
    assert sequence_causes(sequences()) == ""


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        ("sequence_batching.oldest.max_candidate_sequences", 0, "no max_candidate_sequences"),
        ("sequence_batching.state.0.input_name", "x", "'x' is an input for clients, and one that"),
        ("sequence_batching.state.0.output_name", "z", "state 'z' is no tensor of the artifact"),
        ("sequence_batching.state.0.data_type", INT64, "state 'memory_in' is declared INT64 and"),
        ("sequence_batching.control_input.0.name", "z", "control input 'z' is no input"),
        ("sequence_batching.control_input.0.control.0.kind", 1,
         "2 control inputs are for CONTROL_SEQUENCE_READY"),
        ("sequence_batching.control_input.3.control.0.data_type", INT64,
         "control input 'who' is given as INT64 and is UINT64"),
        ("sequence_batching.control_input.3.control.0.data_type", 0, "has no data_type of its own"),
        ("sequence_batching.control_input.3.control.0.kind", 0, "exactly one pair of values"),
        ("max_batch_size", 2, "preferred_batch_size 4 is above max_batch_size 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_sequences_is_found(path, value, cause):
    config = sequences()
    change(config, path, value)
    assert cause in sequence_causes(config)


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
