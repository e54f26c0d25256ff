"""Models tell of themselves by datagram; a plain socket stands in for the backend."""

from __future__ import annotations

import asyncio
import logging
import stat

import pytest

from tests.server.telling import Backend
from tritonfleet.server.events import ModelEvent, ModelEvents


@pytest.fixture
def backend(events):
    backend = Backend(events.path)
    yield backend
    backend.close()


async def heard(events, count):
    """The next events; listened for before they are sent, by the order of the event loop."""
    told, done = [], asyncio.Event()

    def listen(event):
        told.append(event)
        if len(told) == count:
            done.set()

    unsubscribe = events.subscribe(listen)
    await asyncio.wait_for(done.wait(), 10)
    unsubscribe()
    return told


async def test_a_listener_hears_each_event_once_and_in_order(events, backend):
    backend.tell("loaded", size=100)
    backend.tell("memory", size=150)
    backend.tell("unloaded")
    assert await heard(events, 3) == [
        ModelEvent("loaded", "bert", 1, 100),
        ModelEvent("memory", "bert", 1, 150),
        ModelEvent("unloaded", "bert", 1, 0),
    ]


async def test_what_a_model_holds_is_the_sum_over_its_versions(events, backend):
    assert events.bytes_of("bert") is None
    backend.tell("loaded", version=1, size=100)
    backend.tell("loaded", version=2, size=40)
    backend.tell("memory", version=2, size=60)
    backend.tell("loaded", model="vit", size=7)
    await heard(events, 4)
    assert (events.bytes_of("bert"), events.bytes_of("vit")) == (160, 7)


async def test_a_model_that_was_unloaded_holds_nothing_that_could_be_told(events, backend):
    backend.tell("loaded", version=1, size=100)
    backend.tell("loaded", version=2, size=40)
    backend.tell("unloaded", version=1)
    await heard(events, 3)
    assert events.bytes_of("bert") == 40
    backend.tell("unloaded", version=2)
    await heard(events, 1)
    assert events.bytes_of("bert") is None


async def test_the_end_of_the_replaced_copy_is_not_that_of_its_successor(events, backend):
    backend.tell("loaded", size=100)
    backend.tell("loaded", size=120)
    backend.tell("unloaded")
    await heard(events, 3)
    assert events.bytes_of("bert") == 120


async def test_a_model_known_to_be_gone_is_forgotten(events, backend):
    backend.tell("loaded", size=100)
    backend.tell("loaded", model="vit", size=7)
    await heard(events, 2)
    events.forget("bert")
    assert (events.bytes_of("bert"), events.bytes_of("vit")) == (None, 7)


async def test_growth_counts_although_the_word_of_its_opening_was_lost(events, backend):
    backend.tell("memory", size=50)
    await heard(events, 1)
    assert events.bytes_of("bert") == 50
    backend.tell("unloaded")
    backend.tell("unloaded")
    await heard(events, 2)
    assert events.bytes_of("bert") is None


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b'{"event": "loaded", "model": "bert", "version": 1}',
        b'{"event": "exploded", "model": "bert", "version": 1, "bytes": 1}',
        b'{"event": "loaded", "model": "", "version": 1, "bytes": 1}',
        b'{"event": "loaded", "model": "bert", "version": 1, "bytes": -1}',
        b'{"event": "loaded", "model": "bert", "version": "1", "bytes": 1}',
        b'{"event": "loaded", "model": "bert", "version": 1, "by',
    ],
)
async def test_what_is_no_event_is_told_once_and_ignored(events, backend, caplog, datagram):
    with caplog.at_level(logging.WARNING):
        backend.send(datagram)
        backend.send(datagram)
        backend.tell("loaded", size=5)
        assert await heard(events, 1) == [ModelEvent("loaded", "bert", 1, 5)]
    assert len(caplog.records) == 1


async def test_a_field_that_a_later_backend_adds_does_no_harm(events, backend):
    backend.tell("loaded", size=5, arena=2)
    assert await heard(events, 1) == [ModelEvent("loaded", "bert", 1, 5)]


async def test_who_unsubscribes_hears_no_more(events, backend):
    told = []
    unsubscribe = events.subscribe(told.append)
    backend.tell("loaded", size=1)
    await heard(events, 1)
    unsubscribe()
    unsubscribe()
    backend.tell("unloaded")
    await heard(events, 1)
    assert [event.kind for event in told] == ["loaded"]


async def test_a_departure_is_heard_once_the_last_version_is_gone(events, backend):
    backend.tell("loaded", version=1, size=1)
    backend.tell("loaded", version=2, size=2)
    await heard(events, 2)
    gone = events.departure("bert")
    backend.tell("unloaded", version=2)
    backend.tell("unloaded", model="vit")
    await heard(events, 2)
    assert not gone.done()
    backend.tell("unloaded", version=1)
    await asyncio.wait_for(gone, 10)


async def test_a_departure_that_nobody_waits_for_any_more_is_not_listened_for(events, backend):
    gone = events.departure("bert")
    gone.cancel()
    backend.tell("loaded", size=1)
    backend.tell("unloaded")
    assert len(await heard(events, 2)) == 2
    assert gone.cancelled()


async def test_only_the_owner_may_write_to_the_socket(events):
    mode = events.path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_a_socket_that_an_earlier_run_left_is_replaced(tmp_path):
    first = await ModelEvents.listen(tmp_path / "events")
    second = await ModelEvents.listen(tmp_path / "events")
    first.close()
    backend = Backend(tmp_path / "events")
    backend.tell("loaded", size=3)
    assert await heard(second, 1) == [ModelEvent("loaded", "bert", 1, 3)]
    backend.close()
    second.close()


async def test_closing_removes_the_socket_and_may_be_repeated(tmp_path):
    events = await ModelEvents.listen(tmp_path / "events")
    events.close()
    events.close()
    assert not events.path.exists()


async def test_a_path_too_long_for_a_socket_is_an_error(tmp_path):
    with pytest.raises(OSError, match="too long"):
        await ModelEvents.listen(tmp_path / ("x" * 120))
