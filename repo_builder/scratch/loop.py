"""An event loop in a thread of its own, for a caller that is synchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class LoopThread:
    """Runs coroutines until it is closed."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._runs: set[asyncio.Task[Any]] = set()
        # A daemon: a second Ctrl-C must not leave the program waiting for this thread.
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """The coroutine's result; it is cancelled when the caller is interrupted."""
        future = None
        try:
            future = asyncio.run_coroutine_threadsafe(self._noted(coroutine), self._loop)
            return future.result()
        except BaseException:
            if future is not None:
                future.cancel()
            raise

    async def _noted(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        task = asyncio.current_task()
        assert task is not None, "the loop runs it as one"
        self._runs.add(task)
        try:
            return await coroutine
        finally:
            self._runs.discard(task)

    def cancel_runs(self) -> None:
        """Cancels what an interrupted caller has left running, and waits until it is clear."""
        self.run(_cancel(lambda: self._runs))

    def close(self) -> None:
        """Ends the thread, and whatever still runs on it."""
        self.run(_cancel(asyncio.all_tasks))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel(tasks: Callable[[], set[asyncio.Task[Any]]]) -> None:
    others = tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
