"""The order in which the answers on one stream leave.

As from Triton: answers of ordinary models in the order of the requests, whichever is ready first;
answers of decoupled models as they come. An answer that is not yet due waits where it is, and so
holds back the stream that it came on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable


class Place:
    """Where an answer stands in the queue."""

    def __init__(self) -> None:
        self.due = asyncio.Event()


class Outbox:
    """Answers on their way to one client; ``write`` takes one message at a time."""

    def __init__(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._write, self._writing = write, asyncio.Lock()
        self._queue: deque[Place] = deque()
        self._closed = False

    def place(self) -> Place:
        """The end of the queue."""
        place = Place()
        self._queue.append(place)
        self._call_next()
        return place

    async def deliver(self, place: Place, message: bytes) -> None:
        """Sends an answer when all before it are sent."""
        await place.due.wait()
        await self.deliver_now(message)
        self.give_up(place)

    def give_up(self, place: Place) -> None:
        """Lets those behind move up."""
        self._queue.remove(place)
        self._call_next()

    async def deliver_now(self, message: bytes) -> None:
        """Sends an answer that stands in no queue."""
        async with self._writing:
            if not self._closed:
                await self._write(message)

    def close(self) -> None:
        """Nobody listens any more: what is still delivered goes nowhere, and at once."""
        self._closed = True
        for place in self._queue:
            place.due.set()

    def _call_next(self) -> None:
        if self._queue:
            self._queue[0].due.set()
