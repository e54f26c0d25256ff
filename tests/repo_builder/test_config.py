from __future__ import annotations

import pytest

from repo_builder.config import choose_max_batch_size, read_labels, render_config, template_folder
from repo_builder.product import Step
from tests.repo_builder.builders import product, serving
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
        "input [\n"
        "  {\n"
        '    name: "x"\n'
        "    data_type: TYPE_FP32\n"
        "    dims: [4]\n"
        "  }\n"
        "]\n"
        "output [\n"
        "  {\n"
        '    name: "y"\n'
        "    data_type: TYPE_FP32\n"
        "    dims: [3]\n"
        "  }\n"
        "]\n"
        "\n"
        "version_policy {\n"
        "  latest { num_versions: 1 }\n"
        "}\n"
        "instance_group [\n"
        "  {\n"
        "    count: 1\n"
        "  }\n"
        "]\n"
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
    assert config.label_files == {"y_labels.txt": "a\nb\nc\n"}
    assert rendered(made, labels={"y": ("d", "e", "f")}).label_files["y_labels.txt"] == "d\ne\nf\n"


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
