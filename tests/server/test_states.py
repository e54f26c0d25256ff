"""Triton's repository index, read."""

from __future__ import annotations

from tritonfleet.server.states import IndexEntry, ReadyState, model_states


def entry(version, state):
    return IndexEntry("bert", version, state, "")


def test_a_model_is_as_alive_as_its_liveliest_version():
    old, new = entry("1", ReadyState.UNLOADING), entry("2", ReadyState.READY)
    assert model_states([old, new])["bert"] is new
    assert model_states([new, old])["bert"] is new


def test_a_model_never_touched_has_no_state():
    assert model_states([entry("", ReadyState(""))])["bert"].state is ReadyState.UNKNOWN
