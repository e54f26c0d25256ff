"""The relay between two real HTTP servers: what passes, what does not, and what breaks."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web

from tests.gateway.listening import listening
from tritonfleet.errors import ServerUnreachable
from tritonfleet.gateway.problems import problems
from tritonfleet.gateway.relay import READ_AHEAD_BYTES, Relay


@contextlib.asynccontextmanager
async def relayed(upstream, *, timeout_s=None):
    """A gateway in front of an upstream handler, and a client that leaves bytes alone."""
    relay = Relay()
    await relay.start()
    async with listening(upstream) as address:

        async def forward(request):
            extra = {"tritonfleet-residency": "warm"}
            return await relay.forward(
                request, "gpu0", address, timeout_s=timeout_s, extra_headers=extra
            )

        async with listening(forward, middlewares=[problems]) as gateway:
            async with aiohttp.ClientSession(auto_decompress=False) as session:
                yield session, f"http://{gateway}"
    await relay.stop()


async def echo(request):
    """Answers with the body it got, and with the headers it saw."""
    seen = {f"seen-{name}": value for name, value in request.headers.items()}
    return web.Response(body=await request.content.read(), headers=seen, status=207)


@pytest.mark.parametrize("size", [0, 10, READ_AHEAD_BYTES, READ_AHEAD_BYTES + 1, 5 * 2**20])
async def test_bytes_status_and_headers_pass_untouched(size):
    body = bytes(size)
    async with relayed(echo) as (session, url):
        headers = {"Inference-Header-Content-Length": "7", "X-Request-Id": "abc"}
        async with session.post(f"{url}/v2/x?y=%2F", data=body, headers=headers) as answer:
            assert answer.status == 207
            assert await answer.read() == body
            assert answer.headers["seen-Inference-Header-Content-Length"] == "7"
            assert answer.headers["seen-X-Request-Id"] == "abc"
            assert answer.headers["tritonfleet-residency"] == "warm"


async def test_a_body_without_a_length_flows_through():
    async def parts():
        for _ in range(3):
            yield b"part"

    async with relayed(echo) as (session, url):
        async with session.post(url, data=parts()) as answer:
            assert await answer.read() == b"part" * 3


async def test_a_compressed_body_stays_compressed():
    async with relayed(echo) as (session, url):
        headers = {"Content-Encoding": "gzip"}
        async with session.post(url, data=b"not really gzip", headers=headers) as answer:
            assert await answer.read() == b"not really gzip"


async def test_headers_of_the_connection_are_not_passed_on():
    async with relayed(echo) as (session, url):
        async with session.get(url, headers={"TE": "trailers", "Keep-Alive": "5"}) as answer:
            assert "seen-TE" not in answer.headers
            assert "seen-Keep-Alive" not in answer.headers


async def test_a_server_that_is_too_slow_is_504():
    async def never(_):
        await asyncio.Event().wait()

    async with relayed(never, timeout_s=0.05) as (session, url):
        async with session.get(f"{url}/v2/models/m/infer") as answer:
            assert answer.status == 504
            assert "did not finish" in (await answer.json())["error"]


async def test_a_server_that_dies_under_a_request_is_502():
    async def die(request):
        request.transport.abort()
        return web.Response()

    async with relayed(die) as (session, url):
        async with session.get(url) as answer:
            assert answer.status == 502
            assert "'gpu0' does not answer" in (await answer.json())["error"]


async def test_what_is_ours_and_envoys_is_not_told_to_triton():
    headers = {"x-envoy-attempt-count": "2", "X-Tritonfleet-Tenant": "team", "x-mine": "1"}
    async with relayed(echo) as (session, url):
        async with session.get(url, headers=headers) as answer:
            assert answer.headers["seen-x-mine"] == "1"
            told = [name for name in answer.headers if name.lower().startswith("seen-x-")]
            assert told == ["seen-x-mine"]


async def test_a_refused_connection_is_told_from_one_that_broke():
    async def die(request):
        request.transport.abort()
        return web.Response()

    relay = Relay()
    await relay.start()
    async with listening(die) as address:
        with pytest.raises(ServerUnreachable) as broken:
            await relay.call("gpu0", address, "GET", "/v2")
    with pytest.raises(ServerUnreachable) as refused:
        await relay.call("gpu0", address, "GET", "/v2")
    await relay.stop()
    assert (broken.value.sent, refused.value.sent) == (True, False)


@pytest.mark.parametrize("end", ["broken", "late"])
async def test_an_answer_that_breaks_off_is_broken_off_to_the_client_too(end):
    async def half(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"the first half")
        if end == "late":
            await asyncio.Event().wait()
        request.transport.abort()
        return response

    async with relayed(half, timeout_s=0.3 if end == "late" else None) as (session, url):
        async with session.get(url) as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()


async def test_a_client_that_leaves_ends_the_exchange_upstream():
    arrived, left = asyncio.Event(), asyncio.Event()

    async def wait(_):
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async with relayed(wait) as (session, url):
        with pytest.raises(asyncio.TimeoutError):
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=0.2)):
                pass
        await asyncio.wait_for(arrived.wait(), 10)
        await asyncio.wait_for(left.wait(), 10)
