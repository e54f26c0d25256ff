"""Requests made from a configuration, and tensors on the wire and back."""

from __future__ import annotations

import struct

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.grpc import service_pb2

from tritonfleet.server.inference import (
    answer_tensors,
    inference_request,
    tensor_bytes,
    warmup_request,
)
from tritonfleet.server.pbtxt import parse_config
from tritonfleet.server.tensors import DYNAMIC_SIZE, NUMPY_TYPES, decode_texts, encode_texts

PAIR = """
max_batch_size: 4
input [{name: "x" data_type: TYPE_FP32 dims: [2]}, {name: "i" data_type: TYPE_INT32 dims: [-1]}]
"""


def config(text):
    return parse_config("m", f'name: "m" {text}')


def request(text):
    return warmup_request(config(text))


def answer(name, kind, value):
    """A response with one output."""
    made = service_pb2.ModelInferResponse(model_name="m")
    made.outputs.add(name=name, datatype=kind, shape=value.shape)
    made.raw_output_contents.append(tensor_bytes(kind, value))
    return made


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


def test_optional_inputs_that_are_given_are_sent():
    text = 'input [{name: "x" data_type: TYPE_FP32 dims: [1] optional: true}]'
    assert inference_request(config(text), {"x": numpy.float32([3])}).inputs[0].name == "x"


def test_inputs_at_hand_are_sent_and_zeros_for_the_others():
    made = inference_request(config(PAIR), {"x": numpy.ones((3, 2))}, batch_size=3, version="7")
    assert made.model_version == "7"
    assert [list(tensor.shape) for tensor in made.inputs] == [[3, 2], [3, DYNAMIC_SIZE]]
    assert made.raw_input_contents[0] == numpy.ones((3, 2), "float32").tobytes()
    assert not any(made.raw_input_contents[1])


def test_values_that_the_type_cannot_hold_are_refused():
    with pytest.raises(TypeError, match="float64"):
        inference_request(config(PAIR), {"i": numpy.array([[0.5]])})


@given(st.data(), st.sampled_from(sorted(NUMPY_TYPES)))
def test_numbers_survive_the_wire(data, kind):
    value = data.draw(arrays.arrays(NUMPY_TYPES[kind], arrays.array_shapes(min_side=0)))
    numpy.testing.assert_array_equal(answer_tensors(answer("y", kind, value))["y"], value)


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_bf16_keeps_the_upper_half_of_each_number(values):
    value = numpy.array(values, numpy.float32)
    expected = (value.view(numpy.uint32) & 0xFFFF0000).view(numpy.float32)
    numpy.testing.assert_array_equal(answer_tensors(answer("y", "BF16", value))["y"], expected)


@given(st.lists(st.text() | st.binary()))
def test_texts_survive_the_wire_as_bytes(texts):
    expected = [text.encode() if isinstance(text, str) else text for text in texts]
    assert decode_texts(encode_texts(texts)) == expected


def test_an_answer_of_texts_keeps_its_shape():
    value = numpy.array([["a", "bc"]], dtype=object)
    found = answer_tensors(answer("t", "BYTES", value))["t"]
    assert found.tolist() == [[b"a", b"bc"]]
