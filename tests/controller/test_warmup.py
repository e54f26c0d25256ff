"""The proving inference: made from the configuration alone."""

from __future__ import annotations

import struct

from tritonfleet.controller.warmup import warmup_request
from tritonfleet.server.pbtxt import parse_config
from tritonfleet.server.tensors import DYNAMIC_SIZE


def request(text):
    return warmup_request(parse_config("m", f'name: "m" {text}'))


def test_tensors_get_a_batch_of_one_and_a_size_for_open_dimensions():
    made = request('max_batch_size: 4 input [{name: "x" data_type: TYPE_FP32 dims: [-1, 3]}]')
    assert list(made.inputs[0].shape) == [1, DYNAMIC_SIZE, 3]
    assert made.raw_input_contents[0] == bytes(4 * DYNAMIC_SIZE * 3)


def test_without_batching_the_shape_is_the_configurations():
    made = request('input [{name: "x" data_type: TYPE_INT64 dims: [2]}]')
    assert list(made.inputs[0].shape) == [2]
    assert made.raw_input_contents[0] == bytes(16)


def test_text_inputs_get_a_text_each():
    made = request('input [{name: "t" data_type: TYPE_STRING dims: [2]}]')
    one = struct.pack("<I", 7) + b"warm up"
    assert made.raw_input_contents[0] == one * 2


def test_optional_inputs_are_left_out():
    made = request('input [{name: "x" data_type: TYPE_FP32 dims: [1] optional: true}]')
    assert not made.inputs
