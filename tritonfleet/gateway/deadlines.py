"""How long a caller will wait, as far as its HTTP request says so.

Two places can tell: a header of ours, and Triton's ``timeout`` among the request's parameters. The
body is looked at and never changed; what cannot be read here is Triton's to refuse.
"""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

from tritonfleet.errors import InvalidSpec, Problem

TIMEOUT_HEADER = "tritonfleet-timeout-ms"
LOOK_BYTES = 2**20
"""So much of a body is looked at, and so much of a compressed one is inflated."""
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_LONGEST_US = 2**63


def header_deadline_s(text: str | None) -> float | None:
    """The seconds that the header gives a request; InvalidSpec if it is no number."""
    if text is None:
        return None
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not math.isfinite(milliseconds):
        problem = Problem(TIMEOUT_HEADER, f"is not a number of milliseconds: {text[:40]!r}")
        raise InvalidSpec("the request", (problem,))
    return milliseconds / 1000


def body_deadline_s(document: bytes | None) -> float | None:
    """The seconds that ``timeout`` (microseconds) gives a request; None where it says nothing."""
    # Most requests do not, and parsing tensors for it would cost milliseconds.
    if document is None or b'"timeout"' not in document:
        return None
    try:
        request = json.loads(document)
    except (ValueError, RecursionError):
        return None
    return _microseconds(request)


def json_part(
    head: bytes, *, complete: bool, encoding: str, header_length: int | None
) -> bytes | None:
    """The JSON of a body of which ``head`` has been read; None where that is not enough.

    ``header_length`` is where the binary tensors begin, counted in the inflated body.
    """
    if encoding:
        head, complete = _inflated(head, complete)
    if header_length is not None:
        return head[:header_length] if len(head) >= header_length else None
    return head if complete else None


def least(*limits: float | None) -> float | None:
    """The shortest of the limits that there are."""
    return min((limit for limit in limits if limit is not None), default=None)


def _microseconds(request: Any) -> float | None:
    parameters = request.get("parameters") if isinstance(request, dict) else None
    timeout = parameters.get("timeout") if isinstance(parameters, dict) else None
    # To Triton 0 is no timeout; what is no whole number it refuses itself.
    if type(timeout) is not int or not 0 < timeout < _LONGEST_US:
        return None
    return timeout / 1e6


def _inflated(head: bytes, complete: bool) -> tuple[bytes, bool]:
    """As much as may be inflated of a compressed body, and whether that is all of it."""
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        text = inflater.decompress(head, LOOK_BYTES)
    except zlib.error:
        return b"", False
    return text, complete and inflater.eof
