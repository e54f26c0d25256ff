"""The model's name, as Lua reads it from a message, against protobuf's own parser."""

from __future__ import annotations

import re
from importlib.resources import files

import lupa.luajit21 as lupa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.grpc.service_pb2 import ModelInferRequest

SCRIPT = "\n".join(
    files("tritonfleet.gateway.envoy").joinpath("lua", name).read_text("utf-8")
    for name in ("readable.lua", "name.lua")
)
PATH = "/inference.GRPCInferenceService/ModelInfer"
HEADER = "x-tritonfleet-model"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", re.ASCII)
# A body as Envoy hands it to a script: counted from 0, and a read past its end is an error.
STAND_INS = """
function run(bytes, path, version)
  local headers = { [":path"] = path, ["content-length"] = "7" }
  local body = {}
  function body:length() return #bytes end
  function body:getBytes(at, count)
    if at + count > #bytes or count <= 0 then error("out of range") end
    return string.sub(bytes, at + 1, at + count)
  end
  function body:setBytes(text) bytes = text end
  local view = {
    get = function(_, name) return headers[name] end,
    replace = function(_, name, value) headers[name] = value end,
  }
  local handle = {
    headers = function() return view end,
    body = function() if #bytes > 0 then return body end end,
    metadata = function() return { get = function() return version end } end,
  }
  envoy_on_request(handle)
  return headers["x-tritonfleet-model"], bytes, headers["content-length"]
end
"""


@pytest.fixture(scope="module")
def lua():
    """The script and its stand-ins for Envoy."""
    runtime = lupa.LuaRuntime(encoding=None)
    runtime.execute(SCRIPT)
    runtime.execute(STAND_INS)
    return runtime.globals().run


def framed(message, flag=0, size=None):
    return bytes([flag]) + (len(message) if size is None else size).to_bytes(4, "big") + message


def name_of(lua, body, path=PATH):
    found = lua(body, path.encode(), None)[0]
    return None if found is None else found.decode()


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def text_field(number, text):
    return varint(number * 8 + 2) + varint(len(text)) + text


names = st.from_regex(NAME, fullmatch=True)
tensors = st.builds(
    lambda name, data: {"name": name, "datatype": "UINT8", "shape": [len(data)]},
    st.text(max_size=30),
    st.binary(max_size=3000),
)
requests = st.builds(
    lambda name, version, request_id, inputs, raw: ModelInferRequest(
        model_name=name, model_version=version, id=request_id, inputs=inputs, raw_input_contents=raw
    ).SerializeToString(),
    st.one_of(names, st.text(max_size=250)),
    st.sampled_from(["", "1", "12"]),
    st.text(max_size=40),
    st.lists(tensors, max_size=3),
    st.lists(st.binary(max_size=3000), max_size=3),
)
fields = st.one_of(
    st.builds(text_field, st.integers(1, 40), st.binary(max_size=300)),
    names.map(lambda name: text_field(1, name.encode())),
    st.builds(
        lambda n, v: varint(n * 8) + varint(v), st.integers(1, 40), st.integers(0, 2**64 - 1)
    ),
    st.builds(
        lambda n, v: varint(n * 8 + 1) + v, st.integers(1, 40), st.binary(min_size=8, max_size=8)
    ),
    st.builds(
        lambda n, v: varint(n * 8 + 5) + v, st.integers(1, 40), st.binary(min_size=4, max_size=4)
    ),
)


def parsed(message):
    try:
        return ModelInferRequest.FromString(message).model_name
    except Exception:
        return None


@given(requests)
def test_the_name_of_every_message_is_the_one_that_protobuf_reads(lua, message):
    name = parsed(message)
    expected = name if name and NAME.fullmatch(name) else None
    assert name_of(lua, framed(message)) == expected


@given(st.lists(fields, max_size=8).map(b"".join))
@example(text_field(1, b"mine") + text_field(1, b"theirs"))
@example(text_field(1, b"mine") + text_field(1, b""))
def test_of_several_names_the_last_counts_wherever_it_stands(lua, message):
    found = name_of(lua, framed(message))
    if found is None:
        return
    name = parsed(message)
    # What protobuf refuses below the outermost fields, Triton refuses too.
    assert name is None or found == name


@given(st.lists(fields, max_size=8).map(b"".join))
def test_no_name_is_missed_in_a_message_that_protobuf_takes(lua, message):
    name = parsed(message)
    if name and NAME.fullmatch(name):
        assert name_of(lua, framed(message)) == name


@given(requests, st.data())
def test_a_message_that_is_cut_short_names_no_model(lua, message, data):
    body = framed(message)
    kept = data.draw(st.integers(0, len(body) - 1))
    assert name_of(lua, body[:kept]) is None


@given(st.binary(max_size=2000))
@example(b"\x00\x00\x00\x00\x02\x0a\xff")
@example(framed(b"\x0a\xff\xff\xff\xff\x0f"))
@example(framed(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
@example(framed(b"\x00\x00"))
@example(framed(text_field(1, b"m") + b"\x0b"))
def test_arbitrary_bytes_do_no_harm(lua, body):
    for given_body in (body, framed(body)):
        found = name_of(lua, given_body)
        assert found is None or NAME.fullmatch(found)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        framed(b""),
        framed(text_field(1, b"bert"), flag=1),
        framed(text_field(1, b"bert")) * 2,
        framed(text_field(1, b"bert")) + b"\x00",
        framed(text_field(1, b"bert"), size=3),
        framed(text_field(1, b"bert") + b"\x12\x05abc"),
        framed(text_field(1, b"bert") + b"\x03"),
        framed(text_field(1, b"b" * 201)),
        framed(text_field(1, b"../bert")),
        framed(text_field(1, b"a/b")),
        framed(text_field(1, b"bert\x00")),
        framed(text_field(1, "мир".encode())),
        framed(text_field(1, b".bert")),
        framed(text_field(1, b"stream/bert")),
    ],
    ids=[
        "nothing", "empty", "compressed", "two messages", "a byte too many", "a wrong length",
        "a cut field", "an open group", "too long", "dots", "slash", "nul", "letters", "hidden",
        "a stream's key",
    ],
)  # fmt: skip
def test_what_is_out_of_the_ordinary_is_left_to_the_activator(lua, body):
    assert name_of(lua, body) is None


def test_only_inference_is_looked_into(lua):
    body = framed(text_field(1, b"bert"))
    assert name_of(lua, body, "/inference.GRPCInferenceService/ModelMetadata") is None


def test_a_name_after_large_tensors_is_found(lua):
    message = text_field(7, b"\x0a\x04evil" * 100_000) + text_field(1, b"bert")
    assert name_of(lua, framed(message)) == "bert"


@given(requests.filter(lambda message: NAME.fullmatch(parsed(message) or "")))
def test_a_canary_gets_its_version_and_all_else_stays(lua, message):
    _, body, length = lua(framed(message), PATH.encode(), b"3")
    before, after = ModelInferRequest.FromString(message), ModelInferRequest.FromString(body[5:])
    assert after.model_version == (before.model_version or "3")
    assert int.from_bytes(body[1:5], "big") == len(body) - 5
    if not before.model_version:
        assert int(length) == len(body)
    before.ClearField("model_version")
    after.ClearField("model_version")
    assert after == before
