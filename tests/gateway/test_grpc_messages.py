from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tests.gateway.grpc_fronting import request
from tritonfleet.errors import InvalidRequest
from tritonfleet.gateway.grpc_front.messages import (
    EMPTY_FINAL,
    MAX_FIELDS,
    directed,
    error_answer,
    error_of,
    read_answer,
    read_head,
    with_empty_final,
    with_fallback,
)

Request = service_pb2.ModelInferRequest
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PARAMETERS = st.dictionaries(
    st.sampled_from(["timeout", "priority", "sequence_id", "sequence_end", "other"]),
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), NAMES),
)
REQUESTS = st.builds(
    request,
    model=NAMES,
    model_version=NAMES,
    id=NAMES,
    parameters=PARAMETERS,
    raw_input_contents=st.lists(st.binary(max_size=30), max_size=3),
)


@given(REQUESTS)
def test_a_head_says_what_the_message_says(message):
    head = read_head(message.SerializeToString())
    assert (head.model, head.version, head.id) == (
        message.model_name, message.model_version, message.id)  # fmt: skip
    timeout = message.parameters["timeout"].int64_param
    assert head.timeout_s == (timeout / 1e6 if timeout > 0 else None)
    assert head.sequence_end == message.parameters["sequence_end"].bool_param


@given(st.lists(REQUESTS, min_size=1, max_size=3))
def test_of_a_name_that_comes_twice_the_last_one_counts_as_for_protobuf(messages):
    body = b"".join(message.SerializeToString() for message in messages)
    assert read_head(body).model == Request.FromString(body).model_name


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_as_protobuf_reads_them_or_refused(body):
    try:
        head = read_head(body)
    except InvalidRequest:
        return
    try:
        message = Request.FromString(body)
    except Exception:  # what is wrong inside of a tensor is for Triton to say
        return
    assert (head.model, head.version, head.id) == (
        message.model_name, message.model_version, message.id)  # fmt: skip


@given(REQUESTS, st.data())
def test_a_truncated_message_never_has_another_name(message, data):
    body = message.SerializeToString()
    cut = body[: data.draw(st.integers(0, len(body)))]
    try:
        assert read_head(cut).model in ("", message.model_name)
    except InvalidRequest:
        assert len(cut) < len(body)


@given(REQUESTS, NAMES.filter(bool), st.sampled_from(["", "3", "9" * 200]))
def test_a_directed_request_is_the_same_one_for_another_model(message, model, version):
    body = message.SerializeToString()
    changed = Request.FromString(directed(body, read_head(body), model, version))
    assert (changed.model_name, changed.model_version) == (model, version)
    changed.model_name, changed.model_version = message.model_name, message.model_version
    assert changed == message


@given(REQUESTS)
def test_a_request_that_is_to_tell_of_its_end_is_otherwise_the_same(message):
    changed = Request.FromString(with_empty_final(message.SerializeToString()))
    assert changed.parameters.pop(EMPTY_FINAL).bool_param
    assert changed == message


def test_an_answer_of_a_fallback_is_otherwise_the_same():
    answer = service_pb2.ModelStreamInferResponse()
    answer.infer_response.raw_output_contents.append(b"1234")
    changed = service_pb2.ModelStreamInferResponse.FromString(
        with_fallback(answer.SerializeToString(), "vit")
    )
    assert changed.infer_response.parameters.pop("tritonfleet_fallback").string_param == "vit"
    assert changed == answer


def test_an_error_in_an_answer_is_found_and_only_there():
    assert error_of(error_answer("no", "7")) == "no"
    assert read_answer(error_answer("no", "7")).id == "7"
    answer = service_pb2.ModelStreamInferResponse()
    answer.infer_response.id = "7"
    assert error_of(answer.SerializeToString()) == ""


def test_a_message_of_too_many_fields_is_refused_before_it_costs_anything():
    with pytest.raises(InvalidRequest, match="more than"):
        read_head(b"\x2a\x00" * (MAX_FIELDS + 1))
    assert read_head(b"\x2a\x00" * MAX_FIELDS).model == ""


def test_parameters_without_end_are_refused():
    with pytest.raises(InvalidRequest, match="parameters"):
        read_head(request(parameters={"x": "y" * 2**20}).SerializeToString())


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"\x0a\x40bert", "field 1 ends beyond"),
        (b"\x0a", "truncated"),
        (b"\x0b", "unknown kind"),
        (b"\x00\x00", "no field begins"),
        (b"\x0a\x01\xff", "ModelInferRequest"),
        (b"\xff" * 11, "no number ends"),
    ],
)
def test_what_is_wrong_is_said(body, cause):
    with pytest.raises(InvalidRequest, match=cause):
        read_head(body)
