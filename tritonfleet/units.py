"""Sizes as people write them: '512MiB', '1.5 GiB', '2GB', and back."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

_FACTORS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")


def parse_bytes(text: str | int) -> int:
    """Bytes of a size such as '512MiB' (binary), '2GB' (decimal) or a plain number.

    Raises ValueError for anything else, with the units it knows.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = _SIZE.match(str(text))
    factor = _FACTORS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is no size; write a number with B, KB, MB, GB, KiB, MiB or GiB")
    return int(float(match[1]) * factor)


def format_bytes(size: int) -> str:
    """A size in binary units with at most one decimal: 1536 becomes '1.5 KiB'."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _validate(value: Any) -> Any:
    return parse_bytes(value) if isinstance(value, str) else value


Bytes = Annotated[
    int,
    BeforeValidator(_validate),
    Field(ge=0),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*([KkMmGgTt]i?)?[Bb]?\s*$"},
            ],
            "description": "A size in bytes, or text such as '512MiB' or '2GB'.",
        }
    ),
]
"""A number of bytes; in YAML also text with a unit."""
