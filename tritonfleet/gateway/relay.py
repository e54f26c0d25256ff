"""Carries one HTTP exchange to a tritonserver and back, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from tritonfleet.errors import ServerTimeout, ServerUnreachable
from tritonfleet.gateway.body import Body

# RFC 9110, section 7.6.1: these belong to one connection and are not passed on.
_HOP_BY_HOP = frozenset(
    name.lower()
    for name in (
        hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.PROXY_AUTHENTICATE, hdrs.PROXY_AUTHORIZATION,
        hdrs.TE, hdrs.TRAILER, hdrs.TRANSFER_ENCODING, hdrs.UPGRADE,
    )
)  # fmt: skip
READ_AHEAD_BYTES = 2**20
"""Answers up to this size are read before they are sent on; larger ones flow through."""
_SET_ANEW = frozenset(name.lower() for name in (hdrs.HOST, hdrs.EXPECT, hdrs.CONTENT_LENGTH))
_OURS = ("x-envoy-", "x-tritonfleet-")
"""What Envoy and we tell each other is nothing to Triton."""
CALL_TIMEOUT_S = 30.0
_NOT_ADDED = (hdrs.USER_AGENT, hdrs.CONTENT_TYPE, hdrs.ACCEPT_ENCODING)


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

    async def call(
        self,
        server: str,
        address: str,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of a call of our own; ServerUnreachable if nobody answers."""
        url = URL(f"http://{address}{path}", encoded=True)
        async with self._sending(
            server, method, url, body, headers or {}, CALL_TIMEOUT_S
        ) as answer:
            return answer.status, await answer.read()

    async def fetch_json(self, server: str, address: str, path: str) -> Any:
        """The JSON a server answers a GET with; ServerUnreachable if it does not."""
        _, body = await self.call(server, address, hdrs.METH_GET, path)
        return json.loads(body)

    async def forward(
        self,
        request: web.Request,
        server: str,
        address: str,
        *,
        body: Body | None = None,
        path: str | None = None,
        timeout_s: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> web.StreamResponse:
        """Triton's answer to a request, untouched but for the headers of the connection.

        A small answer is not on its way yet when this returns. Raises ServerUnreachable when the
        server dies or is gone, ServerTimeout past ``timeout_s``.
        """
        url = URL(f"http://{address}{path or request.raw_path}", encoded=True)
        payload = (body or Body(request)).payload()
        headers = _request_headers(request)
        sending = self._sending(server, request.method, url, payload, headers, timeout_s)
        async with sending as upstream:
            return await _answer(request, upstream, extra_headers or {})

    async def discard(
        self,
        request: web.Request,
        server: str,
        address: str,
        *,
        body: Body,
        path: str,
        timeout_s: float | None,
    ) -> int:
        """Sends a request whose answer nobody wants, and gives its status."""
        url = URL(f"http://{address}{path}", encoded=True)
        payload, headers = body.payload(), _request_headers(request)
        sending = self._sending(server, request.method, url, payload, headers, timeout_s)
        async with sending as upstream:
            async for _ in upstream.content.iter_any():
                pass
            return upstream.status

    @contextlib.asynccontextmanager
    async def _sending(
        self,
        server: str,
        method: str,
        url: URL,
        data: bytes | AsyncIterator[bytes] | None,
        headers: Mapping[str, str],
        timeout_s: float | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "start() comes first"
        try:
            async with self._session.request(
                method,
                url,
                data=data,
                headers=headers,
                skip_auto_headers=_NOT_ADDED,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as upstream:
                yield upstream
        except (asyncio.TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise ServerTimeout(server, f"{method} {url.path}", timeout_s or 0) from error
        except aiohttp.ClientConnectorError as error:
            raise ServerUnreachable(server, url.authority, sent=False) from error
        except aiohttp.ClientError as error:
            raise ServerUnreachable(server, url.authority) from error


def _request_headers(request: web.Request) -> CIMultiDict[str]:
    headers = CIMultiDict(
        (name, value) for name, value in request.headers.items() if _passes(name.lower())
    )
    length = request.content_length
    if length is not None and request.body_exists:
        headers[hdrs.CONTENT_LENGTH] = str(length)
    return headers


def _passes(name: str) -> bool:
    return name not in _HOP_BY_HOP and name not in _SET_ANEW and not name.startswith(_OURS)


async def _answer(
    request: web.Request, upstream: aiohttp.ClientResponse, extra_headers: Mapping[str, str]
) -> web.StreamResponse:
    headers = CIMultiDict(
        (name, value) for name, value in upstream.headers.items() if name.lower() not in _HOP_BY_HOP
    )
    headers.update(extra_headers)
    length, status, reason = upstream.content_length, upstream.status, upstream.reason
    if length is not None and length <= READ_AHEAD_BYTES and request.method != hdrs.METH_HEAD:
        # In one piece: headers and body then leave in one system call.
        body = await upstream.read()
        return web.Response(status=status, reason=reason, headers=headers, body=body)
    response = web.StreamResponse(status=status, reason=reason, headers=headers)
    await response.prepare(request)
    await _flow(request, upstream, response)
    return response


async def _flow(
    request: web.Request, upstream: aiohttp.ClientResponse, response: web.StreamResponse
) -> None:
    try:
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientError, asyncio.TimeoutError):
        # The status has gone out, so that only a broken connection can tell of it now.
        if request.transport is not None:
            request.transport.abort()
