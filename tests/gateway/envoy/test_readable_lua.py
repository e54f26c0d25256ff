"""Which headers Lua lets pass to gRPC's core, against what the specification says."""

from __future__ import annotations

import re
from importlib.resources import files

import lupa.luajit21 as lupa
import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPT = files("tritonfleet.gateway.envoy").joinpath("lua", "readable.lua").read_text("utf-8")
TIMEOUT = re.compile(r"[0-9]{1,8}[HMSmun]")
"""As https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md has it."""
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@pytest.fixture(scope="module")
def unreadable():
    """Which of some headers cannot be read, by Lua."""
    runtime = lupa.LuaRuntime()
    runtime.execute(SCRIPT)
    view = runtime.eval(
        "function(given) return { get = function(_, name) return given[name] end } end"
    )
    return lambda **headers: runtime.globals().unreadable(
        view(runtime.table_from({name.replace("_", "-"): text for name, text in headers.items()}))
    )


@given(ASCII | st.from_regex(r"[0-9]{1,10}[A-Za-z]", fullmatch=True))
def test_a_deadline_is_up_to_eight_digits_and_a_unit(unreadable, text):
    assert (unreadable(grpc_timeout=text) is None) == bool(TIMEOUT.fullmatch(text))


@pytest.mark.parametrize(
    ("name", "well", "wrong"),
    [
        ("grpc_encoding", ["identity", "gzip", "deflate"], ["zip", "", "GZIP", "gzip,deflate"]),
        ("grpc_previous_rpc_attempts", ["0", "3"], ["x", "-1", "", "1234567890"]),
    ],
)
def test_other_headers_of_grpc(unreadable, name, well, wrong):
    assert [text for text in well if unreadable(**{name: text})] == []
    assert [text for text in wrong if not unreadable(**{name: text})] == []


def test_the_header_is_named_among_those_that_are_well(unreadable):
    headers = {"grpc_encoding": "zip", "grpc_timeout": "1S", "user_agent": "me"}
    assert unreadable(**headers) == "grpc-encoding"
    assert unreadable(user_agent="me") is None
