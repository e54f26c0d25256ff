"""The body of an HTTP request: as much as has been looked at, and the rest, not read yet."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import hdrs, web

from tritonfleet.errors import InvalidSpec, Problem
from tritonfleet.gateway.deadlines import LOOK_BYTES, json_part

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Triton's: where the JSON of a request ends and its binary tensors begin."""


class Body:
    """What is read stays here, so that it can be sent, and sent again where nothing was run."""

    def __init__(self, request: web.Request) -> None:
        self._request, self._head = request, b""
        self.complete = not request.can_read_body
        """Whether all of it has been read."""

    @property
    def held_bytes(self) -> int:
        """The memory that it takes while its request waits, here or in Envoy."""
        length = self._request.content_length
        return 0 if self.complete else LOOK_BYTES if length is None else length

    async def json_part(self) -> bytes | None:
        """The JSON at its beginning, or None where that is beyond what is looked at."""
        header_length = self._header_length()
        await self._read(self._reach(header_length))
        encoding = self._request.headers.get(hdrs.CONTENT_ENCODING, "")
        return json_part(
            self._head, complete=self.complete, encoding=encoding, header_length=header_length
        )

    def payload(self) -> bytes | AsyncIterator[bytes] | None:
        """What to send: bytes if all has been read, else a flow that can be sent only once."""
        if not self._request.body_exists:
            return None
        return self._head if self.complete else self._flow()

    async def _flow(self) -> AsyncIterator[bytes]:
        if self._head:
            yield self._head
        async for chunk in self._request.content.iter_any():
            yield chunk

    async def _read(self, reach: int) -> None:
        while len(self._head) < reach and not self.complete:
            chunk = await self._request.content.read(reach - len(self._head))
            self._head += chunk
            self.complete = not chunk or self._request.content.at_eof()

    def _reach(self, header_length: int | None) -> int:
        """How far to look: to the end of a small body, and of the JSON of a large one."""
        length = self._request.content_length
        if length is None or length <= LOOK_BYTES:
            return LOOK_BYTES
        if header_length is None or header_length > LOOK_BYTES:
            return 0
        return LOOK_BYTES if hdrs.CONTENT_ENCODING in self._request.headers else header_length

    def _header_length(self) -> int | None:
        text = self._request.headers.get(HEADER_LENGTH, "")
        # What is no number Triton refuses itself.
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


async def read_all(request: web.Request, limit: int = LOOK_BYTES) -> bytes:
    """A whole body that has to be small."""
    parts, size = [], 0
    async for chunk in request.content.iter_any():
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            problem = Problem("body", f"is larger than {limit} bytes")
            raise InvalidSpec("the request", (problem,))
    return b"".join(parts)
