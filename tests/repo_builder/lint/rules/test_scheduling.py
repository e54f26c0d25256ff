from __future__ import annotations

import pytest

from tests.repo_builder.lint.builders import change, found, python_model, told


def dynamic(fields: str) -> str:
    return f"dynamic_batching {{ {fields} }}"


def sequence(fields: str) -> str:
    return f"sequence_batching {{ {fields} }}"


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        (dynamic("preferred_batch_size: [4, 9]"), "preferred-batch-size"),
        (dynamic("preferred_batch_size: 0"), "preferred-batch-size"),
        (sequence("oldest { preferred_batch_size: 16 }"), "preferred-batch-size"),
        (dynamic("priority_levels: 2"), "priority-levels"),
        (dynamic("default_priority_level: 1"), "priority-ignored"),
        (
            dynamic("priority_queue_policy { key: 1 value { max_queue_size: 2 } }"),
            "priority-ignored",
        ),
        (
            dynamic("priority_levels: 1 default_priority_level: 1 "
                    "priority_queue_policy { key: 2 value { max_queue_size: 2 } }"),
            "priority-levels",
        ),
        (
            dynamic("preserve_ordering: true priority_levels: 2 default_priority_level: 1"),
            "preserve-ordering",
        ),
        (
            dynamic("preserve_ordering: true default_queue_policy { timeout_action: DELAY "
                    "default_timeout_microseconds: 5 }"),
            "preserve-ordering",
        ),
        (dynamic("max_queue_delay_microseconds: 5000000"), "queue-delay"),
        (sequence("direct { max_queue_delay_microseconds: 5000000 }"), "queue-delay"),
        (sequence("direct { minimum_slot_utilization: 50 }"), "slot-utilization"),
        (
            "response_cache { enable: true } model_transaction_policy { decoupled: true }",
            "cache-refused",
        ),
        (sequence("direct { }") + "response_cache { enable: true }", "cache-refused"),
        ("response_cache { enable: true }", "cache-stale"),
    ],
)  # fmt: skip
def test_settings_that_hurt_are_found(tmp_path, more, rule):
    python_model(tmp_path, more=more)
    assert found(tmp_path) == [rule]


@pytest.mark.parametrize(
    "more",
    [
        dynamic("preferred_batch_size: [4, 8] max_queue_delay_microseconds: 500"),
        dynamic("priority_levels: 2 default_priority_level: 2 "
                "priority_queue_policy { key: 1 value { max_queue_size: 2 } }"),
        dynamic("preserve_ordering: true"),
        sequence("oldest { max_candidate_sequences: 4 preferred_batch_size: 4 }"),
        sequence("direct { minimum_slot_utilization: 0.5 }"),
        "response_cache { enable: false } model_transaction_policy { decoupled: true }",
    ],
)  # fmt: skip
def test_settings_that_do_not_hurt_are_no_mistake(tmp_path, more):
    python_model(tmp_path, more=more)
    assert told(tmp_path) == ""


@pytest.mark.parametrize(
    ("more", "rules"),
    [
        (dynamic(""), ["batching-without-batch"]),
        (dynamic("preferred_batch_size: 4"), ["preferred-batch-size", "batching-without-batch"]),
        (sequence("direct { }"), ["sequence-without-batch"]),
    ],
)
def test_batching_without_a_batch_is_found(tmp_path, more, rules):
    change(python_model(tmp_path, more=more), "max_batch_size: 8", "max_batch_size: 0")
    assert found(tmp_path) == rules


def test_two_schedulers_do_not_parse(tmp_path):
    python_model(tmp_path, more=dynamic("") + sequence(""))
    assert found(tmp_path) == ["config-parse"]
