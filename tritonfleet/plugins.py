"""Finds what others may add: sources, exporters, policies, launchers and commands.

Built-ins are registered the same way, as entry points of this distribution, so that a plugin of
yours is no second-class citizen. Nothing is imported before it is named.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from tritonfleet.errors import UnknownPlugin


def names(group: str) -> tuple[str, ...]:
    """The sorted names registered under ``tritonfleet.<group>``."""
    return tuple(sorted({point.name for point in entry_points(group=f"tritonfleet.{group}")}))


# Asking reads the metadata of every installed distribution: 5 ms, for each of hundreds of models.
@cache
def lookup(group: str, name: str) -> Any:
    """The object registered as ``name`` under ``tritonfleet.<group>``; UnknownPlugin if none is."""
    found = entry_points(group=f"tritonfleet.{group}", name=name)
    if not found:
        raise UnknownPlugin(f"tritonfleet.{group}", name, names(group))
    return next(iter(found)).load()
