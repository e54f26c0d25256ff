"""Reads a fleet file, and reports all of its problems at once, each with its line.

What does not validate is set aside, so that the checks of the rest still run: one misspelt key
must not hide a missing model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from tritonfleet.errors import InvalidSpec, Problem
from tritonfleet.spec.check import check_fleet, suggest
from tritonfleet.spec.check_serving import Location
from tritonfleet.spec.fleet import FleetSpec
from tritonfleet.spec.schema import keys_at


def load_fleet(path: Path) -> FleetSpec:
    """The fleet of a YAML file.

    Raises InvalidSpec with every problem found: line, path, message and suggestion.
    """
    document = _parse(path)
    data = _plain(document)
    problems: list[Problem] = []
    fleet: FleetSpec | None
    try:
        fleet = FleetSpec.model_validate(data)
    except ValidationError as error:
        problems += [_structural(document, details) for details in _innermost(error)]
        fleet = _validated(_without(data, [details["loc"] for details in _innermost(error)]))
    if fleet is not None:
        names = frozenset(data["models"]) if isinstance(data.get("models"), dict) else frozenset()
        problems += [
            Problem(_path(document, at), message, _line(document, at), hint)
            for at, message, hint in check_fleet(fleet, names)
        ]
    if problems or fleet is None:
        raise InvalidSpec(
            str(path), tuple(sorted(set(problems), key=lambda p: (p.line or 0, p.path)))
        )
    return fleet


def _parse(path: Path) -> CommentedMap:
    try:
        document = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = Problem(
            "", f"cannot be read: {error.strerror}", suggestion="pass it with --fleet"
        )
        raise InvalidSpec(str(path), (problem,)) from error
    except UnicodeDecodeError as error:
        raise InvalidSpec(str(path), (Problem("", "is not UTF-8 text"),)) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        text = f"is not valid YAML: {str(error.problem).strip()}"
        problem = Problem("", text, line=mark.line + 1 if mark else None)
        raise InvalidSpec(str(path), (problem,)) from error
    if not isinstance(document, CommentedMap):
        raise InvalidSpec(str(path), (Problem("", "must hold a mapping with servers and models"),))
    return document


def _plain(node: Any) -> Any:
    """The document without ruamel's own types, which no error message should show."""
    if isinstance(node, dict):
        return {str(key) if not isinstance(key, int) else key: _plain(node[key]) for key in node}
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _innermost(error: ValidationError) -> list[Any]:
    """The errors, less those a collection reports only because its items failed."""
    errors: list[Any] = error.errors()
    inner = {details["loc"][:depth] for details in errors for depth in range(len(details["loc"]))}
    return [details for details in errors if details["loc"] not in inner]


def _structural(document: CommentedMap, details: Any) -> Problem:
    at: Location = details["loc"]
    message, hint = details["msg"].removeprefix("Value error, "), None
    if details["type"] == "extra_forbidden":
        message, hint = f"unknown key '{at[-1]}'", suggest(str(at[-1]), keys_at(at[:-1]))
    elif details["type"] == "missing":
        message = f"'{at[-1]}' is missing"
    elif details["type"] == "union_tag_invalid":
        tag, expected = details["ctx"]["tag"], details["ctx"]["expected_tags"]
        message = f"unknown kind '{tag}'"
        hint = suggest(tag, (word.strip(" '") for word in expected.split(",")))
    elif details["type"] == "union_tag_not_found":
        message = "'kind' is missing"
    elif details["type"] == "literal_error":
        expected = str(details["ctx"]["expected"]).replace(" or ", ", ")
        message = f"{details['input']!r} is not allowed"
        hint = suggest(str(details["input"]), (word.strip(" '") for word in expected.split(",")))
    return Problem(_path(document, at), message, _line(document, at), hint)


def _walk(document: CommentedMap, at: Location) -> Iterable[tuple[Any, str | int]]:
    """The (container, key) pairs along a location, less the union tags, which no file holds."""
    node: Any = document
    for part in at:
        inside = isinstance(node, CommentedMap) and part in node
        inside |= isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node)
        if inside:
            yield node, part
            node = node[part]


def _line(document: CommentedMap, at: Location) -> int | None:
    """The 1-based line of the innermost key of a location that is in the file."""
    line = None
    for node, key in _walk(document, at):
        # A merged key ("<<") has no position of its own.
        try:
            position = node.lc.key(key) if isinstance(node, CommentedMap) else node.lc.item(key)
        except (KeyError, TypeError):
            continue
        line = int(position[0]) + 1
    return line


def _path(document: CommentedMap, at: Location) -> str:
    parts = [str(key) for _, key in _walk(document, at)]
    if at and (not parts or parts[-1] != str(at[-1])) and not str(at[-1]).startswith("["):
        parts.append(str(at[-1]))
    return ".".join(parts)


def _without(data: dict[str, Any], locations: Iterable[Location]) -> dict[str, Any]:
    """The data less every section, profile, server or model that did not validate."""
    bad = {at[:2] for at in locations}
    rest = {key: value for key, value in data.items() if (key,) not in bad}
    for section in ("models", "profiles", "servers"):
        part = rest.get(section)
        if isinstance(part, dict):
            rest[section] = {key: part[key] for key in part if (section, key) not in bad}
        elif isinstance(part, list):
            rest[section] = [part[i] for i in range(len(part)) if (section, i) not in bad]
    for section in {str(at[0]) for at in bad if at} - {"models", "profiles", "servers"}:
        rest.pop(section, None)
    # Without a single good server the other checks still deserve to run.
    rest["servers"] = rest.get("servers") or [{"name": "any", "capacity": 2**62}]
    return rest


def _validated(data: dict[str, Any]) -> FleetSpec | None:
    try:
        return FleetSpec.model_validate(data)
    except ValidationError:
        return None
