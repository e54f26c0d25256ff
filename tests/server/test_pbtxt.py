"""config.pbtxt as text, message and JSON."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.pbtxt import (
    ModelConfig,
    changed_fields,
    config_json,
    config_type,
    datatype,
    format_config,
    format_passage,
    parse_config,
    protocol_shape,
    read_config,
)

TEXT = """
name: "bert"
max_batch_size: 8
input [ { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] } ]
output [ { name: "label" data_type: TYPE_STRING dims: [ 1 ] } ]
dynamic_batching { priority_queue_policy { key: 1 value { default_timeout_microseconds: 7 } } }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
"""


def test_a_misspelt_field_is_named_with_line_and_column():
    with pytest.raises(InvalidModelConfig, match=r"2:1 .*max_batch_sise"):
        parse_config("bert", 'name: "bert"\nmax_batch_sise: 8')


def test_a_missing_file_names_the_next_step(tmp_path):
    with pytest.raises(InvalidModelConfig, match="tritonfleet build bert"):
        read_config(tmp_path, "bert")


def test_text_and_message_agree():
    config = parse_config("bert", TEXT)
    assert parse_config("bert", format_config(config)) == config


def test_json_has_numbers_where_triton_has_numbers():
    data = config_json(parse_config("bert", TEXT))
    assert data["input"][0]["dims"] == [-1]
    policy = data["dynamic_batching"]["priority_queue_policy"]["1"]
    assert policy["default_timeout_microseconds"] == 7
    assert data["parameters"]["intra_op_thread_count"]["string_value"] == "1"


def test_data_types_are_translated_both_ways():
    config = parse_config("bert", TEXT)
    assert datatype(config.output[0].data_type) == "BYTES"
    assert config_type("BYTES") == "TYPE_STRING"
    assert config_type("FP32") == "TYPE_FP32"


def test_the_protocol_shows_the_batch_dimension():
    config = parse_config("bert", TEXT)
    assert protocol_shape(config, config.input[0]) == [-1, -1]
    config.max_batch_size = 0
    assert protocol_shape(config, config.input[0]) == [-1]


WHOLE = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_STRING: st.text(max_size=8),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32, allow_nan=False),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
}


def value(draw, field):
    if field.enum_type:
        return draw(st.sampled_from([each.number for each in field.enum_type.values]))
    return draw(WHOLE[field.cpp_type])


def fill(draw, message):
    """Sets every field, and one of each 'oneof'."""
    chosen = {
        oneof.name: draw(st.sampled_from([field.name for field in oneof.fields]))
        for oneof in message.DESCRIPTOR.oneofs
    }
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof and chosen[field.containing_oneof.name] != field.name:
            continue
        target = getattr(message, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            key, inner = (field.message_type.fields_by_name[name] for name in ("key", "value"))
            if inner.message_type:
                fill(draw, target[value(draw, key)])
            else:
                target[value(draw, key)] = value(draw, inner)
        elif hasattr(target, "add"):
            fill(draw, target.add())
        elif hasattr(target, "append"):
            target.extend([value(draw, field), value(draw, field)])
        elif field.message_type:
            target.SetInParent()
            fill(draw, target)
        else:
            setattr(message, field.name, value(draw, field))


@st.composite
def full_configs(draw):
    config = ModelConfig()
    fill(draw, config)
    return config


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(full_configs())
def test_every_field_survives_the_way_to_text_and_back(config):
    assert parse_config("m", format_config(config)) == config
    passages = (format_passage(config, field.name) for field in ModelConfig.DESCRIPTOR.fields)
    assert parse_config("m", "\n".join(passages)) == config
    assert changed_fields(config, config) == ()


def test_a_passage_that_is_not_set_is_empty():
    assert format_passage(parse_config("bert", TEXT), "optimization") == ""


@pytest.mark.parametrize(
    ("other", "paths"),
    [
        ("metric_tags { key: 'a' value: 'b' }", ()),
        ("dynamic_batching { preserve_ordering: true }", ()),
        ("dynamic_batching { priority_queue_policy { key: 1 value { max_queue_size: 2 } } }",
         ("dynamic_batching.priority_queue_policy.1.default_timeout_microseconds",)),
        ("max_batch_size: 9", ("max_batch_size",)),
        ("input { name: 'mask' }", ("input",)),
    ],
)  # fmt: skip
def test_a_merge_changes_what_it_overwrites_and_not_what_it_adds(other, paths):
    before, after = parse_config("bert", TEXT), parse_config("bert", TEXT)
    after.MergeFrom(parse_config("bert", other))
    assert changed_fields(before, after) == paths


def test_another_scheduler_is_a_change_of_the_first():
    before = parse_config("m", "dynamic_batching { }")
    after = parse_config("m", "sequence_batching { }")
    assert changed_fields(before, after) == ("dynamic_batching",)
