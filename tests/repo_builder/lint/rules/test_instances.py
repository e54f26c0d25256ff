from __future__ import annotations

import pytest

from tests.repo_builder.lint.builders import change, found, onnx_model, python_model, told


def group(fields: str) -> str:
    return f"instance_group [{{ {fields} }}]"


def limited(*resources: str) -> str:
    listed = ", ".join(f"{{ {resource} }}" for resource in resources)
    return group(f"count: 1 rate_limiter {{ resources [{listed}] }}")


@pytest.mark.parametrize(
    ("replacement", "rule"),
    [
        ("", "instance-count"),
        (group(""), "instance-count"),
        (group("count: -1"), "instance-count"),
        (group("count: 1 kind: KIND_CPU gpus: [0]"), "instance-gpus"),
        (group("count: 1 kind: KIND_MODEL gpus: [0]"), "instance-gpus"),
        (group("count: 1 kind: KIND_GPU"), "kind-gpu"),
        (group("count: 1 gpus: [0]"), "kind-gpu"),
        (group("count: 1 passive: true"), "all-passive"),
        (group('count: 1 profile: ["0"]'), "instance-profile"),
    ],
)
def test_instances_that_hurt_are_found(tmp_path, replacement, rule):
    change(onnx_model(tmp_path), "instance_group [{ count: 1 }]", replacement)
    assert found(tmp_path) == [rule]


@pytest.mark.parametrize("fields", ["count: 2", "count: 1 kind: KIND_CPU", "kind: KIND_MODEL"])
def test_other_instances_are_no_mistake(tmp_path, fields):
    python_model(tmp_path, more=group(fields))
    assert told(tmp_path) == ""


@pytest.mark.parametrize(
    ("fields", "gpus", "rules"),
    [
        ("kind: KIND_GPU", 0, ["no-gpu"]),
        ("kind: KIND_GPU", 1, []),
        ("kind: KIND_GPU gpus: [0, 1]", 2, []),
        ("kind: KIND_GPU gpus: [0, 2]", 2, ["no-gpu"]),
    ],
)
def test_gpus_are_held_against_those_of_the_server(tmp_path, fields, gpus, rules):
    python_model(tmp_path, more=group(fields))
    assert found(tmp_path, gpus=gpus) == rules


def test_a_resource_that_the_server_has_too_little_of_is_found(tmp_path):
    python_model(tmp_path, more=limited('name: "gpu" count: 3'))
    assert found(tmp_path, resources={"gpu": 3}) == []
    assert found(tmp_path, resources={"gpu": 2}) == ["resource-unmet"]


def test_a_resource_of_two_scopes_is_found_on_the_later_model(tmp_path):
    python_model(tmp_path, "a", more=limited('name: "gpu" count: 1'))
    python_model(tmp_path, "b", more=limited('name: "gpu" count: 1 global: true'))
    assert told(tmp_path).startswith("b resource-scope")


def test_one_model_that_enlarges_a_resource_for_all_is_found(tmp_path):
    for name, count in (("a", 1), ("b", 1), ("c", 4)):
        python_model(tmp_path, name, more=limited(f'name: "gpu" count: {count}'))
    assert found(tmp_path) == ["resource-pool"]
    assert "--rate-limit-resource=gpu:1" in told(tmp_path)
    assert found(tmp_path, resources={"gpu": 4}) == []


def test_a_resource_of_which_nothing_is_needed_is_found(tmp_path):
    python_model(tmp_path, more=limited('name: "gpu"'))
    assert found(tmp_path) == ["resource-pool"]


@pytest.mark.parametrize(("count", "rules"), [(60, []), (61, ["many-stubs"])])
def test_more_python_instances_than_shared_memory_are_found(tmp_path, count, rules):
    python_model(tmp_path, more=group(f"count: {count}"))
    assert found(tmp_path) == rules
