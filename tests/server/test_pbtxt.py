"""config.pbtxt as text, message and JSON."""

from __future__ import annotations

import pytest

from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.pbtxt import (
    config_json,
    config_type,
    datatype,
    format_config,
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
