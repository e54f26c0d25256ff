from __future__ import annotations

import pytest
from google.protobuf import json_format

from repo_builder.config.message import proto_words
from repo_builder.importing.words import our_words
from tritonfleet.server.pbtxt import ModelConfig, parse_config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("instance_group [{ kind: KIND_GPU gpus: [1] }]",
         {"instance_group": [{"kind": "gpu", "gpus": [1]}]}),
        ("input [{ name: 'x' data_type: TYPE_STRING format: FORMAT_NHWC }]",
         {"input": [{"name": "x", "data_type": "BYTES", "format": "nhwc"}]}),
        ("dynamic_batching { default_queue_policy { timeout_action: DELAY } }",
         {"dynamic_batching": {"default_queue_policy": {"timeout_action": "DELAY"}}}),
        ("batch_input [{ kind: BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO }]",
         {"batch_input": [{"kind": "accumulated_element_count_with_zero"}]}),
        ("optimization { priority: PRIORITY_MAX graph { } input_pinned_memory { } }",
         {"optimization": {"priority": "max", "graph": {"level": 0},
                           "input_pinned_memory": {"enable": False}}}),
        ("sequence_batching { control_input [{ control [{ kind: CONTROL_SEQUENCE_READY }] }] }",
         {"sequence_batching": {"control_input": [{"control": [{"kind": "ready"}]}]}}),
    ],
)  # fmt: skip
def test_enumerations_lose_what_protobuf_demands(text, words):
    assert our_words(parse_config("m", text)) == words


def test_the_builder_has_the_same_words():
    text = """instance_group [{ kind: KIND_MODEL }] optimization { priority: PRIORITY_MIN }
      input [{ data_type: TYPE_BF16 format: FORMAT_NCHW }] batch_output [{ target_name: "y" }]
      sequence_batching { control_input [{ control [{ kind: CONTROL_SEQUENCE_CORRID
        data_type: TYPE_UINT64 }, { kind: CONTROL_SEQUENCE_END }] }] }"""
    message = parse_config("m", text)
    back = proto_words(ModelConfig.DESCRIPTOR, our_words(message))
    assert json_format.ParseDict(back, ModelConfig()) == message
