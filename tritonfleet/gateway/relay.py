"""Carries one HTTP exchange to a tritonserver and back, byte for byte."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from tritonfleet.errors import ServerTimeout, ServerUnreachable

# RFC 9110, section 7.6.1: these belong to one connection and are not passed on.
_HOP_BY_HOP = frozenset(
    name.lower()
    for name in (
        hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.PROXY_AUTHENTICATE, hdrs.PROXY_AUTHORIZATION,
        hdrs.TE, hdrs.TRAILER, hdrs.TRANSFER_ENCODING, hdrs.UPGRADE,
    )
)  # fmt: skip
READ_AHEAD_BYTES = 2**20
"""Bodies up to this size are read before they are sent on; larger ones flow through."""
_SET_ANEW = frozenset(name.lower() for name in (hdrs.HOST, hdrs.EXPECT, hdrs.CONTENT_LENGTH))


class Relay:
    """Connections to the tritonservers, kept open between requests."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Opens the pool of connections."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )

    async def stop(self) -> None:
        """Closes every connection."""
        if self._session:
            await self._session.close()

    async def fetch_json(self, server: str, address: str, path: str) -> Any:
        """The JSON a server answers a GET with; ServerUnreachable if it does not."""
        assert self._session is not None, "start() comes first"
        try:
            async with self._session.get(f"http://{address}{path}") as answer:
                return await answer.json(content_type=None)
        except aiohttp.ClientError as error:
            raise ServerUnreachable(server, address) from error

    async def forward(
        self,
        request: web.Request,
        server: str,
        address: str,
        *,
        timeout_s: float | None = None,
        extra_headers: dict[str, str] | None = None,
    ) -> web.StreamResponse:
        """Triton's answer to a request, untouched but for the headers of the connection.

        Raises ServerUnreachable when the server dies or is gone, ServerTimeout past ``timeout_s``.
        """
        assert self._session is not None, "start() comes first"
        url = URL(f"http://{address}{request.raw_path}", encoded=True)
        try:
            async with self._session.request(
                request.method,
                url,
                data=await _body(request),
                headers=_request_headers(request),
                skip_auto_headers=(hdrs.USER_AGENT, hdrs.CONTENT_TYPE, hdrs.ACCEPT_ENCODING),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as upstream:
                return await _answer(request, upstream, extra_headers or {})
        except (asyncio.TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise ServerTimeout(
                server, f"{request.method} {request.path}", timeout_s or 0
            ) from error
        except aiohttp.ClientError as error:
            raise ServerUnreachable(server, address) from error


async def _body(request: web.Request) -> bytes | aiohttp.StreamReader | None:
    if not request.can_read_body:
        return None
    length = request.content_length
    if length is not None and length <= READ_AHEAD_BYTES:
        return await request.read()
    return request.content


def _request_headers(request: web.Request) -> CIMultiDict[str]:
    headers = CIMultiDict(
        (name, value)
        for name, value in request.headers.items()
        if name.lower() not in _HOP_BY_HOP and name.lower() not in _SET_ANEW
    )
    length = request.content_length
    if length is not None and request.can_read_body:
        headers[hdrs.CONTENT_LENGTH] = str(length)
    return headers


async def _answer(
    request: web.Request, upstream: aiohttp.ClientResponse, extra_headers: dict[str, str]
) -> web.StreamResponse:
    headers = CIMultiDict(
        (name, value) for name, value in upstream.headers.items() if name.lower() not in _HOP_BY_HOP
    )
    headers.update(extra_headers)
    length = upstream.content_length
    if length is not None and length <= READ_AHEAD_BYTES and request.method != hdrs.METH_HEAD:
        # In one piece: headers and body then leave in one system call.
        body = await upstream.read()
        return web.Response(
            status=upstream.status, reason=upstream.reason, headers=headers, body=body
        )
    response = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)
    await response.prepare(request)
    async for chunk in upstream.content.iter_any():
        await response.write(chunk)
    await response.write_eof()
    return response
