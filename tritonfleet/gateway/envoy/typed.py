"""How a thing with a type is written in Envoy's configuration."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
_PREFIX = "type.googleapis.com/"


def typed(kind: str, **fields: Any) -> Json:
    """A message that says of which type it is; what is None is left out."""
    return {"@type": _PREFIX + kind, **present(fields)}


def extension(name: str, kind: str, **fields: Any) -> Json:
    """One of Envoy's parts, with its configuration."""
    return {"name": name, "typed_config": typed(kind, **fields)}


def present(fields: Json) -> Json:
    """Without what is None."""
    return {key: value for key, value in fields.items() if value is not None}


def resources(version: str, items: list[Json]) -> Json:
    """The content of a watched file."""
    return {"version_info": version, "resources": items}


def watched(path: str) -> Json:
    """Where Envoy finds a part of its configuration, and looks for its changes."""
    return {"resource_api_version": "V3", "path_config_source": {"path": path}}


def seconds(value: float) -> str:
    """A duration."""
    return f"{value:.3f}s"
