"""How long a stream holds a model in memory.

A request holds it until it is answered. A sequence, whose state is in the model, holds it from its
first message to its last, or until Triton itself would have forgotten it.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from tritonfleet.gateway.desk import Admission, Asked, Desk

SequenceKey = tuple[str, "int | str"]
"""The model that is asked for, and the correlation id."""


class Hold:
    """One lease, for as long as anybody uses it."""

    def __init__(self, admission: Admission, stack: AsyncExitStack) -> None:
        self.admission = admission
        self._stack, self._uses = stack, 0

    @classmethod
    async def take(cls, desk: Desk, asked: Asked) -> Hold:
        """A model in memory, used by nobody yet; waits for it."""
        stack = AsyncExitStack()
        return cls(await stack.enter_async_context(desk.admit(asked)), stack)

    def use(self) -> None:
        """Somebody more needs it."""
        self._uses += 1

    async def leave(self) -> None:
        """Somebody needs it no more; the last one gives the lease back."""
        self._uses -= 1
        if self._uses == 0:
            await self._stack.aclose()


class Used(Protocol):
    """What lasts for as long as anybody uses it."""

    def use(self) -> None:
        """Somebody more needs it."""

    async def leave(self) -> None:
        """Somebody needs it no more."""


LaneT = TypeVar("LaneT", bound=Used)


@dataclass(eq=False, slots=True)
class _Open(Generic[LaneT]):
    hold: Hold
    lane: LaneT
    idle_s: float
    last_s: float
    expiry: asyncio.Task[None] | None = field(default=None)


class Sequences(Generic[LaneT]):
    """The open sequences of one stream, each with its hold on its model and its way to it."""

    def __init__(self) -> None:
        self._open: dict[SequenceKey, _Open[LaneT]] = {}

    def going(self, key: SequenceKey) -> tuple[Hold, LaneT] | None:
        """What an open sequence goes on with; its time begins anew."""
        found = self._open.get(key)
        if found is None:
            return None
        found.last_s = asyncio.get_running_loop().time()
        return found.hold, found.lane

    def open(self, key: SequenceKey, hold: Hold, lane: LaneT, idle_s: float) -> None:
        """Has a sequence hold its model until it is closed, or nobody went on with it so long."""
        if key in self._open:
            return
        hold.use()
        lane.use()
        opened = _Open(hold, lane, idle_s, asyncio.get_running_loop().time())
        self._open[key] = opened
        opened.expiry = asyncio.create_task(self._expire(key, opened))

    async def close(self, key: SequenceKey) -> None:
        """Ends a sequence, if it is open."""
        opened = self._open.pop(key, None)
        if opened is None:
            return
        if opened.expiry is not None:
            opened.expiry.cancel()
        await _leave(opened)

    async def close_all(self) -> None:
        """Lets every model go."""
        for key in list(self._open):
            await self.close(key)

    async def _expire(self, key: SequenceKey, opened: _Open[LaneT]) -> None:
        now = asyncio.get_running_loop().time
        while (left_s := opened.last_s + opened.idle_s - now()) > 0:  # noqa: ASYNC110 - a timer
            await asyncio.sleep(left_s)
        if self._open.get(key) is opened:
            del self._open[key]
            await _leave(opened)


async def _leave(opened: _Open[LaneT]) -> None:
    await opened.lane.leave()
    await opened.hold.leave()
