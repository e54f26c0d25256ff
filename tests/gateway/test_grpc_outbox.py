from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from tritonfleet.gateway.grpc_front.outbox import Outbox


async def delivered(order, *, given_up=()):
    """What comes out when the answers to requests 0, 1, 2, … are ready in this order."""
    out: list[bytes] = []

    async def write(message):
        await asyncio.sleep(0)
        out.append(message)

    outbox = Outbox(write)
    places = [outbox.place() for _ in order]
    tasks = []
    for number in order:
        if number in given_up:
            outbox.give_up(places[number])
        else:
            message = bytes([number])
            tasks.append(asyncio.ensure_future(outbox.deliver(places[number], message)))
        await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    return [message[0] for message in out]


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_answers_leave_in_the_order_of_the_requests_whichever_is_ready_first(order, given_up):
    expected = [number for number in range(6) if number not in given_up]
    assert asyncio.run(delivered(order, given_up=given_up)) == expected


async def test_an_answer_that_stands_in_no_queue_overtakes():
    out = []

    async def write(message):
        out.append(message)

    outbox = Outbox(write)
    first, second = outbox.place(), outbox.place()
    waiting = asyncio.ensure_future(outbox.deliver(second, b"second"))
    await outbox.deliver_now(b"at once")
    await outbox.deliver(first, b"first")
    await waiting
    assert out == [b"at once", b"first", b"second"]


async def test_when_nobody_listens_any_more_nothing_is_written_and_nobody_waits():
    out = []

    async def write(message):
        out.append(message)

    outbox = Outbox(write)
    outbox.place()
    second = outbox.place()
    waiting = asyncio.ensure_future(outbox.deliver(second, b"second"))
    await asyncio.sleep(0)
    outbox.close()
    await asyncio.wait_for(waiting, 10)
    assert out == []
