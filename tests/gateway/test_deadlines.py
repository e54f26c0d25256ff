"""How long a caller will wait, read from whatever it sends."""

from __future__ import annotations

import json
import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonfleet.errors import InvalidSpec
from tritonfleet.gateway.deadlines import (
    LOOK_BYTES,
    body_deadline_s,
    header_deadline_s,
    json_part,
    least,
)


def request(**parameters):
    return json.dumps({"inputs": [], "parameters": parameters}).encode()


# -- the header ----------------------------------------------------------------------------------


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_header_is_any_number_of_milliseconds(milliseconds):
    assert header_deadline_s(repr(milliseconds)) == milliseconds / 1000


def test_no_header_is_no_limit():
    assert header_deadline_s(None) is None


@given(st.text())
def test_what_is_no_number_is_refused_and_named(text):
    try:
        assert math.isfinite(header_deadline_s(text))
    except InvalidSpec as error:
        assert "tritonfleet-timeout-ms" in str(error)


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "-Infinity", "1e999", "1,5"])
def test_no_number_of_milliseconds(text):
    with pytest.raises(InvalidSpec):
        header_deadline_s(text)


# -- the body ------------------------------------------------------------------------------------


def test_tritons_timeout_is_in_microseconds():
    assert body_deadline_s(request(timeout=250_000)) == 0.25


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"timeout": 0},
        {"timeout": -5},
        {"timeout": "5"},
        {"timeout": 1.5},
        {"timeout": True},
        {"timeout": 2**63},
        {"timeout": None},
        {"priority": 1},
    ],
)
def test_what_is_no_timeout_to_triton_is_none_to_us(parameters):
    assert body_deadline_s(request(**parameters)) is None


def test_a_timeout_elsewhere_is_no_deadline():
    assert body_deadline_s(b'{"timeout": 5, "inputs": [{"parameters": {"timeout": 5}}]}') is None


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b'"timeout"',
        b'["timeout"]',
        b'{"parameters": "timeout"}',
        b'{"parameters": {"timeout": 5}',
        b'{"a":' * 100_000 + b'"timeout"',
        b'{"parameters": {"timeout": ' + b"9" * 5000 + b"}}",
    ],
)
def test_what_cannot_be_read_is_left_to_triton(body):
    assert body_deadline_s(body) is None


@given(st.binary())
def test_no_bytes_are_too_odd(junk):
    assert body_deadline_s(junk + b'"timeout"' + junk) is None


# -- finding the JSON ----------------------------------------------------------------------------


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_the_json_ends_where_the_tensors_begin(document, tensors):
    head = document + tensors
    found = json_part(head, complete=True, encoding="", header_length=len(document))
    assert found == document
    assert json_part(head, complete=True, encoding="", header_length=len(head) + 1) is None


@given(st.binary(max_size=200))
def test_without_tensors_all_of_it_is_json_once_it_is_there(document):
    assert json_part(document, complete=True, encoding="", header_length=None) == document
    assert json_part(document, complete=False, encoding="", header_length=None) is None


@pytest.mark.parametrize("window", [zlib.MAX_WBITS, zlib.MAX_WBITS | 16], ids=["deflate", "gzip"])
@given(document=st.binary(max_size=200), tensors=st.binary(max_size=200))
def test_a_compressed_body_is_inflated_for_the_look(window, document, tensors):
    packer = zlib.compressobj(wbits=window)
    packed = packer.compress(document + tensors) + packer.flush()
    look = {"complete": True, "encoding": "gzip"}
    assert json_part(packed, header_length=len(document), **look) == document
    assert json_part(packed, header_length=None, **look) == document + tensors
    assert json_part(packed[:-1], header_length=None, complete=False, encoding="gzip") is None


def test_a_bomb_is_not_inflated():
    bomb = zlib.compress(bytes(100 * LOOK_BYTES))
    assert json_part(bomb, complete=True, encoding="gzip", header_length=None) is None
    found = json_part(bomb, complete=True, encoding="gzip", header_length=100 * LOOK_BYTES)
    assert found is None


@given(st.binary())
def test_what_is_not_compressed_although_it_says_so_is_left_to_triton(junk):
    found = json_part(junk, complete=True, encoding="gzip", header_length=None)
    assert found is None or len(found) <= LOOK_BYTES


def test_the_least_limit_counts():
    assert least(None, 3.0, 2.0) == 2.0
    assert least(None, None) is None
