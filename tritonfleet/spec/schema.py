"""The fleet file's JSON Schema, for editors, and for telling which keys a place knows."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tritonfleet.spec.fleet import FleetSpec


@cache
def fleet_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a fleet file."""
    schema = FleetSpec.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tritonfleet fleet file",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def schema_text() -> str:
    """The schema as it is kept in ``triton_configs/fleet.schema.json``."""
    return json.dumps(fleet_schema(), indent=2, ensure_ascii=False) + "\n"


def keys_at(location: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys allowed in the mapping at a location, as pydantic names it; () where any are."""
    node = _resolve(fleet_schema())
    for part in location:
        node = _step(node, part)
    return tuple(node.get("properties", ()))


def _step(node: dict[str, Any], part: str | int) -> dict[str, Any]:
    mapping = node.get("discriminator", {}).get("mapping", {})
    if part in mapping:
        return _resolve({"$ref": mapping[part]})
    if part in node.get("properties", {}):
        return _resolve(node["properties"][part])
    for inner in ("items", "additionalProperties"):
        if isinstance(node.get(inner), dict):
            return _resolve(node[inner])
    patterns = list(node.get("patternProperties", {}).values())
    if patterns:
        return _resolve(patterns[0])
    return {}


def _resolve(node: dict[str, Any]) -> dict[str, Any]:
    """The node behind a reference, or behind the one alternative that is not null."""
    while True:
        alternatives = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
        if "$ref" in node:
            node = fleet_schema()["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        elif len(alternatives) == 1:
            node = alternatives[0]
        else:
            return node
