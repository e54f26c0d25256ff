"""Coroutines on a thread of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from repo_builder.scratch.loop import LoopThread


@pytest.fixture
def loop():
    thread = LoopThread("test")
    yield thread
    thread.close()


async def answer(value):
    await asyncio.sleep(0)
    return value


async def fail():
    raise KeyError("x")


def test_a_coroutine_gives_its_result_or_its_error(loop):
    assert loop.run(answer(7)) == 7
    with pytest.raises(KeyError):
        loop.run(fail())
    assert loop.run(answer(8)) == 8


def test_all_run_on_one_thread_that_is_not_the_callers(loop):
    async def where():
        return threading.current_thread()

    assert loop.run(where()) is loop.run(where()) is not threading.current_thread()


def test_an_interrupted_wait_cancels_what_it_waited_for(loop, request):
    # Where this runs in a shell's background, an interrupt is ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler))
    cancelled = []

    async def wait_forever():
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    with pytest.raises(KeyboardInterrupt):
        loop.run(wait_forever())
    loop.cancel_runs()
    assert cancelled == [True]


def test_what_a_run_has_left_in_the_background_is_not_cancelled_with_the_runs(loop):
    async def leave_behind():
        return asyncio.create_task(asyncio.Event().wait())

    task = loop.run(leave_behind())
    loop.cancel_runs()
    assert not task.done()


def test_closing_cancels_what_still_runs_and_ends_the_thread():
    loop, ended = LoopThread("closing"), []

    async def leave_behind():
        async def wait_forever():
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # it may still wait while it clears up
                ended.append(True)

        ended.append(asyncio.create_task(wait_forever()).done())
        await asyncio.sleep(0)

    loop.run(leave_behind())
    loop.close()
    assert ended == [False, True]
    assert "closing" not in {thread.name for thread in threading.enumerate()}
