from __future__ import annotations

import base64
import json
import struct

import numpy
import pytest

from fleet_perf.inputs import (
    TEXTS,
    analyzer_data,
    callable_by_requests,
    grpc_request,
    http_request,
    make_inputs,
    members,
)
from tests.fleet_perf.builders import config, tensor
from tritonfleet.errors import InvalidSpec
from tritonfleet.server.tensors import DYNAMIC_SIZE


def test_a_batch_dimension_goes_in_front_where_the_model_batches():
    (made,) = make_inputs(config(tensor("x", "FP32", [1, 8, 8])), batch_size=3)
    assert (made.datatype, made.shape, len(made.raw)) == ("FP32", (3, 1, 8, 8), 3 * 64 * 4)


def test_a_model_that_does_not_batch_gets_its_dims_as_they_are():
    (made,) = make_inputs(config(tensor("x", "FP32", [2, 3]), batch=0), batch_size=3)
    assert made.shape == (2, 3)


def test_open_dimensions_agree_between_inputs():
    made = make_inputs(config(tensor("ids", "INT64", [-1]), tensor("mask", "INT64", [-1])))
    assert {one.shape for one in made} == {(1, DYNAMIC_SIZE)}


def test_whole_numbers_are_valid_indices_and_masks_let_everything_through():
    ids, mask = make_inputs(
        config(tensor("input_ids", "INT64", [-1]), tensor("attention_mask", "INT64", [-1]))
    )
    assert set(numpy.frombuffer(ids.raw, numpy.int64)) == {0}
    assert set(numpy.frombuffer(mask.raw, numpy.int64)) == {1}


def test_shapes_of_the_scenario_win():
    (made,) = make_inputs(config(tensor("x", "FP32", [-1])), shapes={"x": (17,)})
    assert made.shape == (1, 17)


@pytest.mark.parametrize(
    ("shapes", "complaint"),
    [({"y": (3,)}, "no input 'y'"), ({"x": (3, 3)}, "does not fit"), ({"x": (5,)}, "does not fit")],
)
def test_shapes_that_cannot_be_are_refused(shapes, complaint):
    with pytest.raises(InvalidSpec, match=complaint):
        make_inputs(config(tensor("x", "FP32", [4])), shapes=shapes)


def test_optional_inputs_are_left_out():
    made = make_inputs(config(tensor("x", "FP32", [1]), tensor("y", "FP32", [1], optional=True)))
    assert [one.name for one in made] == ["x"]


def test_the_same_variant_is_the_same_bytes_and_another_is_not():
    asked = config(tensor("x", "FP32", [64]))
    assert make_inputs(asked, variant=1) == make_inputs(asked, variant=1)
    assert make_inputs(asked, variant=1) != make_inputs(asked, variant=2)


def test_texts_carry_their_length_in_bytes():
    (made,) = make_inputs(config(tensor("text", "STRING", [1])), texts=["wörld"])
    assert made.datatype == "BYTES"
    assert made.raw == struct.pack("<I", 6) + "wörld".encode()


def test_variants_begin_with_different_texts():
    asked = config(tensor("text", "STRING", [1]))
    assert {make_inputs(asked, variant=n)[0].texts[0] for n in range(len(TEXTS))} == set(TEXTS)


@pytest.mark.parametrize(
    ("kind", "size"),
    [("BOOL", 1), ("UINT8", 1), ("INT16", 2), ("FP16", 2), ("BF16", 2), ("INT32", 4), ("FP64", 8)],
)
def test_every_kind_has_its_size(kind, size):
    (made,) = make_inputs(config(tensor("x", kind, [5])))
    assert len(made.raw) == 5 * size


def test_http_puts_the_tensors_behind_a_description_of_them():
    made = make_inputs(config(tensor("x", "FP32", [2]), tensor("text", "STRING", [1])))
    body, headers = http_request(made)
    length = int(headers["Inference-Header-Content-Length"])
    described = json.loads(body[:length])["inputs"]
    sizes = [one["parameters"]["binary_data_size"] for one in described]
    assert body[length:] == made[0].raw + made[1].raw
    assert sizes == [len(one.raw) for one in made]


def test_grpc_carries_the_same_bytes():
    made = make_inputs(config(tensor("x", "FP32", [2])))
    request = grpc_request("m", made)
    assert request.model_name == "m"
    assert list(request.inputs[0].shape) == [1, 2]
    assert request.raw_input_contents[0] == made[0].raw


def test_the_analyzer_gets_rows_without_the_batch():
    asked = config(tensor("x", "FP32", [2]), tensor("text", "STRING", [1]))
    made = make_inputs(asked)
    (row,) = analyzer_data([made], asked)["data"]
    assert row["x"]["shape"] == [2]
    assert base64.b64decode(row["x"]["content"]["b64"]) == made[0].raw
    assert row["text"] == {"content": [TEXTS[0]], "shape": [1]}


def test_sequences_and_decoupled_models_are_not_asked_by_single_requests():
    assert callable_by_requests(config())
    assert not callable_by_requests(config(sequence_batching={}))
    assert not callable_by_requests(config(model_transaction_policy={"decoupled": True}))


def test_members_of_an_ensemble_are_named_once():
    steps = [{"model_name": "a"}, {"model_name": "b"}, {"model_name": "a"}]
    assert members(config(ensemble_scheduling={"step": steps})) == ("a", "b")
    assert members(config()) == ()
