"""Artifacts that are on this machine already: paths, and files of installed packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tritonfleet.errors import SourceUnavailable

PACKAGE_PREFIX = "package:"
FILE_PREFIX = "file://"


def existing_path(model: str, where: str, base: Path) -> Path:
    """The path that a fleet file names; SourceUnavailable when nothing is there."""
    if where.startswith(PACKAGE_PREFIX):
        return _in_package(model, where)
    if where.startswith(FILE_PREFIX):
        where = _path_of_url(model, where)
    path = base / Path(where).expanduser()
    if not path.exists():
        hint = f"Relative paths start at {base}."
        raise SourceUnavailable(model, f"there is nothing at {path}", hint)
    return path.resolve()


def _path_of_url(model: str, where: str) -> str:
    parts = urlsplit(where)
    if parts.netloc not in ("", "localhost"):
        hint = f"Write {FILE_PREFIX}/PATH with three slashes, or the path alone."
        raise SourceUnavailable(model, f"{where} names a host, '{parts.netloc}'", hint)
    return unquote(parts.path)


def _in_package(model: str, where: str) -> Path:
    name, _, inside = where.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        hint = f"Install the distribution that brings '{name}', or name a directory instead."
        raise SourceUnavailable(model, f"no package '{name}' is installed", hint)
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.exists():
        hint = f"The package lies in {path.parents[inside.count('/')]}."
        raise SourceUnavailable(model, f"package '{name}' has no '{inside}'", hint)
    return path
