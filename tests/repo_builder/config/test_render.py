from __future__ import annotations

import shutil

import pytest

from repo_builder.config import render as config_module
from repo_builder.config.render import (
    DataFile,
    choose_max_batch_size,
    read_labels,
    render_config,
    template_folder,
)
from repo_builder.product import Step
from tests.repo_builder.builders import product, serving
from tests.repo_builder.config.everything import DATA, SEQUENCES, STATEFUL, configurations
from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.pbtxt import datatype, parse_config


def rendered(made=None, labels=None, **options):
    return render_config("m", made or product(), serving(**options), labels)


def test_the_whole_file_reads_as_a_person_would_write_it():
    assert rendered().text == (
        '# Written by "tritonfleet build"; the next build replaces it.\n'
        'name: "m"\n'
        'backend: "onnxruntime"\n'
        "max_batch_size: 8\n"
        "\n"
        "input {\n"
        '  name: "x"\n'
        "  data_type: TYPE_FP32\n"
        "  dims: [4]\n"
        "}\n"
        "output {\n"
        '  name: "y"\n'
        "  data_type: TYPE_FP32\n"
        "  dims: [3]\n"
        "}\n"
        "\n"
        "version_policy {\n"
        "  latest {\n"
        "    num_versions: 1\n"
        "  }\n"
        "}\n"
        "instance_group {\n"
        "  count: 1\n"
        "}\n"
    )


def test_a_model_that_cannot_batch_declares_all_its_dimensions():
    message = rendered(product("x FP32 1 n", "y BYTES k")).message
    assert message.max_batch_size == 0
    assert list(message.input[0].dims) == [1, -1]
    assert list(message.output[0].dims) == [-1]
    assert datatype(message.output[0].data_type) == "BYTES"


def test_a_scalar_is_one_element_outside_and_none_inside():
    message = rendered(product("x FP32 batch", "y FP32 batch")).message
    assert list(message.input[0].dims) == [1]
    assert message.input[0].HasField("reshape") and not message.input[0].reshape.shape


def test_dynamic_batching_with_queue_policies_and_priorities():
    message = rendered(
        max_batch_size=16,
        dynamic_batching={
            "preferred_batch_size": [4, 16],
            "max_queue_delay_microseconds": 700,
            "preserve_ordering": True,
            "priority_levels": 2,
            "default_priority_level": 2,
            "default_queue_policy": {"timeout_action": "DELAY", "max_queue_size": 9},
            "priority_queue_policy": {1: {"default_timeout_microseconds": 5}},
        },
    ).message
    batching = message.dynamic_batching
    assert list(batching.preferred_batch_size) == [4, 16]
    assert batching.max_queue_delay_microseconds == 700
    assert batching.preserve_ordering
    assert (batching.priority_levels, batching.default_priority_level) == (2, 2)
    assert batching.default_queue_policy.timeout_action == 1
    assert batching.default_queue_policy.max_queue_size == 9
    assert batching.priority_queue_policy[1].default_timeout_microseconds == 5


def test_instances_have_a_count_and_a_rate_limiter_but_no_kind():
    resources = [{"name": "heavy", "count": 2}, {"name": "all", "count": 1, "global": True}]
    group = {"count": 3, "rate_limiter": {"resources": resources, "priority": 4}}
    (message,) = rendered(instance_group=[group]).message.instance_group
    assert (message.count, message.kind, list(message.gpus)) == (3, 0, [])
    found = [(r.name, r.count, getattr(r, "global")) for r in message.rate_limiter.resources]
    assert found == [("heavy", 2, False), ("all", 1, True)]
    assert message.rate_limiter.priority == 4


@pytest.mark.parametrize(
    ("policy", "choice"),
    [({"latest": 2}, "latest"), ({"specific": [1, 4]}, "specific"), ({"all": True}, "all")],
)
def test_each_version_policy(policy, choice):
    message = rendered(version_policy=policy).message.version_policy
    assert message.WhichOneof("policy_choice") == choice
    assert choice != "latest" or message.latest.num_versions == 2
    assert choice != "specific" or list(message.specific.versions) == [1, 4]


def test_a_warm_up_names_every_input_with_the_sizes_given_or_eight():
    made = product("ids INT64 batch sequence, x FP32 batch frames 3", "y FP32 batch 3")
    sample = {"batch_size": 2, "count": 5, "data": "random", "dimensions": {"sequence": 16}}
    (warmup,) = rendered(made, warmup=[sample]).message.model_warmup
    assert (warmup.batch_size, warmup.count) == (2, 5)
    assert list(warmup.inputs["ids"].dims) == [16]
    assert list(warmup.inputs["x"].dims) == [8, 3]


def test_random_warm_up_data_is_for_floats_only_since_random_ids_leave_the_vocabulary():
    made = product("ids INT64 batch 4, x FP32 batch 4", "y FP32 batch 3")
    (warmup,) = rendered(made, warmup=[{"data": "random"}]).message.model_warmup
    assert warmup.inputs["ids"].zero_data
    assert warmup.inputs["x"].random_data


def test_labels_lie_beside_the_configuration_and_win_over_those_of_the_source():
    made = product(labels={"y": ("a", "b", "c")})
    config = rendered(made)
    assert config.message.output[0].label_filename == "y_labels.txt"
    assert config.files == {"y_labels.txt": "a\nb\nc\n"}
    assert rendered(made, labels={"y": ("d", "e", "f")}).files["y_labels.txt"] == "d\ne\nf\n"


def test_labels_must_be_as_many_as_the_scores():
    with pytest.raises(InvalidModelConfig, match="gives 3 scores and has 2 labels"):
        rendered(labels={"y": ("a", "b")})


def test_labels_of_an_output_that_is_not_there_are_refused_with_a_guess():
    made = product(outputs="scores FP32 batch 3")
    with pytest.raises(InvalidModelConfig, match="Did you mean 'scores'"):
        rendered(made, labels={"score": ("a", "b", "c")})


def test_labels_may_come_from_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n\n")
    options = serving(labels={"y": "names.txt", "z": ["one"]})
    assert read_labels("m", options, tmp_path) == {"y": ("cat", "dog"), "z": ("one",)}


def test_a_label_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidModelConfig, match=r"names\.txt"):
        read_labels("m", serving(labels={"y": "names.txt"}), tmp_path)


def test_names_are_quoted_as_protobuf_wants_them():
    message = rendered(product('a"b\\c FP32 batch 4', "größe FP32 batch 3")).message
    assert message.input[0].name == 'a"b\\c'
    assert message.output[0].name == "größe"


def test_an_ensemble_has_steps_and_neither_instances_nor_batching():
    steps = (Step("first", {"x": "x"}, {"h": "h"}), Step("second", {"z": "h"}, {"y": "y"}))
    made = product(backend="", steps=steps, batch_limit=4)
    options = {"dynamic_batching": {}, "warmup": [{}], "instance_group": [{"count": 2}]}
    message = rendered(made, **options).message
    assert (message.platform, message.backend, message.max_batch_size) == ("ensemble", "", 4)
    assert not message.instance_group and not message.model_warmup
    found = [(s.model_name, s.model_version, dict(s.input_map), dict(s.output_map))
             for s in message.ensemble_scheduling.step]  # fmt: skip
    assert found == [("first", -1, {"x": "x"}, {"h": "h"}), ("second", -1, {"z": "h"}, {"y": "y"})]


@pytest.mark.parametrize(
    ("made", "declared", "expected"),
    [
        (product(), None, 8),
        (product(), 0, 0),
        (product(), 64, 64),
        (product("x FP32 4"), None, 0),
        (product(batch_limit=4), None, 4),
        (product(batch_limit=4), 2, 2),
    ],
)
def test_the_batch_size_is_declared_or_follows_from_the_artifact(made, declared, expected):
    assert choose_max_batch_size("m", made, serving(max_batch_size=declared)) == expected


def test_a_batch_the_artifact_cannot_have_is_refused_with_the_way_out():
    with pytest.raises(InvalidModelConfig, match="max_batch_size: 0"):
        rendered(product("x FP32 4"), max_batch_size=8)


def test_an_ensemble_cannot_take_more_than_its_members():
    with pytest.raises(InvalidModelConfig, match="takes only 4"):
        rendered(product(batch_limit=4), max_batch_size=8)


def test_batching_without_a_batch_is_refused_where_triton_would_ignore_it():
    with pytest.raises(InvalidModelConfig, match="no effect with max_batch_size 0"):
        rendered(product("x FP32 4"), dynamic_batching={})


def test_the_templates_are_found_and_every_text_parses():
    assert (template_folder() / "config.pbtxt.j2").is_file()
    assert parse_config("m", rendered().text) == rendered().message


def test_dynamic_sizes_may_be_fixed_and_wrong_ones_are_refused():
    made = product("ids INT64 batch sequence", "y FP32 batch 3")
    message = rendered(made, input={"ids": {"dims": [128]}}).message
    assert list(message.input[0].dims) == [128]
    with pytest.raises(InvalidModelConfig, match=r"'x' is declared \[5\] and is \[4\]"):
        rendered(input={"x": {"dims": [5]}})


def test_a_reshape_shows_clients_other_dims_of_the_same_volume():
    tensor = rendered(input={"x": {"dims": [2, 2], "reshape": [4]}}).message.input[0]
    assert (list(tensor.dims), list(tensor.reshape.shape)) == ([2, 2], [4])
    with pytest.raises(InvalidModelConfig, match="cannot be reshaped"):
        rendered(input={"x": {"dims": [2, 3], "reshape": [4]}})


@pytest.mark.parametrize("side", ["input", "output"])
def test_options_of_a_tensor_that_is_not_there_are_refused_with_a_guess(side):
    made = product("pixels FP32 batch 4", "scores FP32 batch 3")
    near = {"input": "pixel", "output": "score"}[side]
    with pytest.raises(InvalidModelConfig, match=f"serving.{side} names '{near}'.*Did you mean"):
        rendered(made, **{side: {near: {"dims": [4]}}})


def test_signals_and_states_are_filled_in_by_triton_and_so_no_inputs():
    message = configurations()["sequences"].message
    assert [tensor.name for tensor in message.input] == ["x"]
    assert [tensor.name for tensor in message.output] == ["y"]
    batching = message.sequence_batching
    pairs = {given.name: given.control[0] for given in batching.control_input}
    assert list(pairs["start"].fp32_false_true) == [0, 1]
    assert list(pairs["ready"].int32_false_true) == [0, 1]
    assert list(pairs["end"].bool_false_true) == [False, True]
    assert datatype(pairs["who"].data_type) == "UINT64"
    assert list(batching.state[0].dims) == [4]
    assert datatype(batching.state[0].data_type) == "FP32"


def test_a_state_that_serving_mentions_is_an_output_for_clients_too():
    options = {**SEQUENCES, "output": {"memory_out": {}}}
    message = render_config("m", STATEFUL, serving(**options), {}, DATA).message
    assert [tensor.name for tensor in message.output] == ["y", "memory_out"]


def test_a_signal_for_an_input_that_is_not_there_is_refused():
    signal = {"name": "strat", "control": [{"kind": "start"}]}
    with pytest.raises(InvalidModelConfig, match="Did you mean 'start'"):
        rendered(STATEFUL, sequence_batching={"control_input": [signal]})


def test_a_signal_of_a_type_that_triton_cannot_give_is_refused():
    made = product("x FP32 batch 4, start INT64 batch 1", "y FP32 batch 3")
    signal = {"name": "start", "control": [{"kind": "start"}]}
    with pytest.raises(InvalidModelConfig, match="signal 'start' is INT64"):
        rendered(made, sequence_batching={"control_input": [signal]})


def test_a_ragged_input_is_joined_and_needs_no_batch_dimension():
    message = configurations()["everything"].message
    rows = next(tensor for tensor in message.input if tensor.name == "rows")
    assert message.max_batch_size == 16
    assert (list(rows.dims), rows.allow_ragged_batch) == ([-1], True)
    assert "places" not in [tensor.name for tensor in message.input]


ACCELERATED = {
    "precision": "fp16",
    "workspace": "1GiB",
    "cache": "/cache/m",
    "dimensions": {"sequence": {"min": 1, "opt": 64, "max": 256}},
    "parameters": {"trt_timing_cache_enable": True},
}


def test_tensorrt_is_written_out_as_the_parameters_of_onnx_runtime_s_accelerator():
    made = product("ids INT64 batch sequence, mask INT64 batch sequence", "y FP32 batch 3")
    optimization = rendered(made, optimization={"tensorrt": ACCELERATED}).message.optimization
    (accelerator,) = optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {
        "precision_mode": "FP16",
        "max_workspace_size_bytes": str(2**30),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/cache/m",
        "trt_profile_min_shapes": "ids:1x1,mask:1x1",
        "trt_profile_opt_shapes": "ids:8x64,mask:8x64",
        "trt_profile_max_shapes": "ids:8x256,mask:8x256",
        "trt_timing_cache_enable": "true",
    }


def test_tensorrt_is_for_onnx_models_and_wants_every_dynamic_size():
    made = product("ids INT64 batch sequence, x FP32 batch frames", "y FP32 batch 3")
    with pytest.raises(InvalidModelConfig, match="does not tell the size of 'frames'"):
        rendered(made, optimization={"tensorrt": ACCELERATED})
    with pytest.raises(InvalidModelConfig, match="its backend is python"):
        rendered(product(backend="python"), optimization={"tensorrt": {}})
    wrong = {"dimensions": {"sequenec": {"min": 1, "opt": 1, "max": 1}}}
    with pytest.raises(InvalidModelConfig, match="Did you mean 'sequence'"):
        rendered(made, optimization={"tensorrt": wrong})


def test_what_is_not_typed_is_merged_through_the_protobuf():
    extra = {
        "optimization": {"cuda": {"graphs": True}},
        "parameters": {"mine": {"string_value": "1"}},
        "dynamic_batching": {"preserve_ordering": True},
    }
    options = {"parameters": {"theirs": 2}, "dynamic_batching": {"max_queue_delay_microseconds": 5}}
    config = rendered(extra=extra, **options)
    assert config.message.optimization.cuda.graphs
    assert sorted(config.message.parameters) == ["mine", "theirs"]
    assert config.message.dynamic_batching.preserve_ordering
    assert config.message.dynamic_batching.max_queue_delay_microseconds == 5
    assert parse_config("m", config.text) == config.message


@pytest.mark.parametrize(
    ("extra", "cause"),
    [
        ({"optimization": {"grpah": {}}}, 'no field named "grpah" at "ModelConfig.optimization"'),
        ({"instance_group": [{"kind": "KIND_TPU"}]}, "KIND_TPU"),
        ({"response_cache": 5}, "response_cache"),
        ({"instance_group": [{"count": 9}]}, "contradicts the generated 'instance_group'"),
        ({"dynamic_batching": {"max_queue_delay_microseconds": 6}},
         "'dynamic_batching.max_queue_delay_microseconds'"),
        ({"sequence_batching": {}}, "contradicts the generated 'dynamic_batching'"),
        ({"name": "other"}, "contradicts the generated 'name'"),
        ({"input": [{"name": "z"}]}, "contradicts the generated 'input'"),
        ({"parameters": {"a": {"string_value": "2"}}}, "'parameters.a.string_value'"),
    ],
)  # fmt: skip
def test_extra_that_is_unknown_or_contradicts_is_refused_with_its_place(extra, cause):
    options = {"parameters": {"a": 1}, "dynamic_batching": {"max_queue_delay_microseconds": 5}}
    with pytest.raises(InvalidModelConfig, match=r"serving\.extra") as caught:
        rendered(extra=extra, **options)
    assert cause in str(caught.value)


def test_a_number_too_large_for_protobuf_is_refused_in_a_sentence():
    with pytest.raises(InvalidModelConfig, match="max_batch_size field: Value out of range"):
        rendered(max_batch_size=2**40)


def test_other_configurations_lie_beside_the_first_each_in_full():
    config = rendered(
        max_batch_size=4,
        parameters={"a": 1},
        configs={"big": {"max_batch_size": 64, "instance_group": [{"kind": "gpu"}]}, "same": {}},
    )
    big = parse_config("m", config.files["configs/big.pbtxt"])
    assert (big.max_batch_size, big.instance_group[0].kind) == (64, 1)
    assert big.parameters["a"].string_value == "1"
    assert config.message.max_batch_size == 4
    assert config.files["configs/same.pbtxt"] == config.text


def test_a_mistake_in_another_configuration_names_it():
    with pytest.raises(InvalidModelConfig, match=r"in serving\.configs\.big: input 'x'"):
        rendered(configs={"big": {"input": {"x": {"dims": [7]}}}})


def test_templates_may_add_but_not_leave_out(tmp_path, monkeypatch):
    shutil.copytree(template_folder(), tmp_path / "templates")
    monkeypatch.setattr(config_module, "template_folder", lambda: tmp_path / "templates")
    main = tmp_path / "templates/config.pbtxt.j2"
    good = main.read_text()
    config_module._template.cache_clear()
    try:
        main.write_text(good + '\nmetric_tags { key: "site" value: "a" }\n')
        assert rendered().message.metric_tags["site"] == "a"
        config_module._template.cache_clear()
        main.write_text(good.replace('{{ config | passage("version_policy") }}', ""))
        with pytest.raises(InvalidModelConfig, match="leave out or change 'version_policy'"):
            rendered()
    finally:
        config_module._template.cache_clear()


def test_warm_up_data_is_published_with_the_model():
    ids = DataFile("data/ids.npy", bytes(24), "INT64", (3,))
    made = product("ids INT64 batch sequence", "y FP32 batch 3")
    options = serving(warmup=[{"name": "real", "files": {"ids": "data/ids.npy"}}])
    config = render_config("m", made, options, {}, {"data/ids.npy": ids})
    given = config.message.model_warmup[0].inputs["ids"]
    assert list(given.dims) == [3]
    assert config.files == {f"warmup/{given.input_data_file}": bytes(24)}


@pytest.mark.parametrize(
    ("file", "cause"),
    [
        (DataFile("f", bytes(12), "INT32", (3,)), "'f' holds INT32, and INT64 is wanted"),
        (DataFile("f", bytes(24)), r"'f' holds 24 bytes; INT64 of \[8\] takes 64"),
        (DataFile("f", bytes(48), "INT64", (2, 3)), r"\[2, 3\]"),
    ],
)
def test_warm_up_data_that_is_no_such_tensor_is_refused(file, cause):
    made = product("ids INT64 batch sequence", "y FP32 batch 3")
    with pytest.raises(InvalidModelConfig, match=cause):
        render_config("m", made, serving(warmup=[{"files": {"ids": "f"}}]), {}, {"f": file})


def test_warm_up_data_for_an_input_that_is_not_there_is_refused():
    options = serving(warmup=[{"files": {"z": "f"}}])
    with pytest.raises(InvalidModelConfig, match=r"warmup\.0\.files names 'z'"):
        render_config("m", product(), options, {}, {"f": DataFile("f", b"")})
