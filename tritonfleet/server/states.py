"""Triton's words for where a model stands, as its repository index gives them."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class ReadyState(enum.Enum):
    """The states of the model repository extension; UNKNOWN was never loaded since the start."""

    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"
    UNKNOWN = ""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository index: a model has one for each version it knows."""

    name: str
    version: str
    state: ReadyState
    reason: str


# A model is as alive as its liveliest version: an old one may be UNLOADING beside a READY one.
_LIVELIEST = (
    ReadyState.READY,
    ReadyState.LOADING,
    ReadyState.UNLOADING,
    ReadyState.UNAVAILABLE,
    ReadyState.UNKNOWN,
)


def model_states(index: Iterable[IndexEntry]) -> dict[str, IndexEntry]:
    """For each model its liveliest version."""
    states: dict[str, IndexEntry] = {}
    for entry in index:
        known = states.get(entry.name)
        if known is None or _LIVELIEST.index(entry.state) < _LIVELIEST.index(known.state):
            states[entry.name] = entry
    return states
