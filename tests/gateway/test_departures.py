"""Whoever hangs up is noticed although nobody reads what they have sent."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tritonfleet.gateway.departures import Departures

MORE_THAN_BUFFERS_HOLD = bytes(4 * 2**20)


@pytest.fixture
async def departures():
    departures = Departures()
    yield departures
    departures.close()


@contextlib.asynccontextmanager
async def unread(departures, path):
    """A connection that is watched but not read from, its other end, and whether it was lost."""
    lost, made = asyncio.Event(), asyncio.get_running_loop().create_future()

    class Deaf(asyncio.Protocol):
        def connection_made(self, transport):
            transport.pause_reading()
            made.set_result(transport)

        def connection_lost(self, _):
            lost.set()

    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(Deaf, str(path))
    _, other = await asyncio.open_unix_connection(str(path))
    transport = await made
    try:
        yield transport, other, lost
    finally:
        other.transport.abort()
        transport.abort()
        server.close()


async def test_who_hangs_up_with_all_unread_is_noticed(departures, tmp_path):
    async with unread(departures, tmp_path / "socket") as (transport, other, lost):
        other.write(MORE_THAN_BUFFERS_HOLD)
        with departures.watched(transport):
            other.transport.abort()
            await asyncio.wait_for(lost.wait(), 10)


async def test_who_had_gone_before_is_noticed_at_once(departures, tmp_path):
    async with unread(departures, tmp_path / "socket") as (transport, other, lost):
        other.transport.abort()
        with departures.watched(transport):
            await asyncio.wait_for(lost.wait(), 10)


async def test_who_stays_is_left_alone(departures, tmp_path):
    async with (
        unread(departures, tmp_path / "stays") as (stays, _, stays_lost),
        unread(departures, tmp_path / "goes") as (goes, other, goes_lost),
    ):
        with departures.watched(stays), departures.watched(goes):
            other.transport.abort()
            await asyncio.wait_for(goes_lost.wait(), 10)
        assert not stays_lost.is_set()
        assert not stays.is_closing()


async def test_after_its_block_a_connection_is_nobodys_business(departures, tmp_path):
    async with (
        unread(departures, tmp_path / "former") as (former, other, former_lost),
        unread(departures, tmp_path / "other") as (watched, second, lost),
    ):
        with departures.watched(former):
            pass
        other.transport.abort()
        with departures.watched(watched):
            second.transport.abort()
            await asyncio.wait_for(lost.wait(), 10)
        assert not former_lost.is_set()


async def test_a_request_without_a_connection_is_taken_as_it_is(departures):
    with departures.watched(None):
        departures.close()
