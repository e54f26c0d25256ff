"""One stream to a tritonserver, for the requests of one client's stream to one model.

A lane of its own for each model: so an error, which Triton sends without the model's name, can be
only of that model, and the end of a decoupled model's answers is told apart from others'. And a
lane ends as soon as nobody uses it, because Triton unloads no model while a stream is open on which
it has ever answered, however long ago.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import Any

import grpc.aio

from tritonfleet.gateway.grpc_front.holds import Hold
from tritonfleet.gateway.grpc_front.messages import Head, StreamAnswer
from tritonfleet.gateway.grpc_front.outbox import Place

_ENDED = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
"""What grpc says of a write to a stream that has ended already."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a model answers."""

    decoupled: bool
    sequence_idle_s: float | None
    """How long Triton keeps the state of a sequence; None for a model without sequences."""

    @classmethod
    def of(cls, config: Any) -> Manner:
        """Read from a ``ModelConfig``."""
        idle_s = None
        if config.HasField("sequence_batching"):
            # Triton's own default is a second.
            idle_s = (config.sequence_batching.max_sequence_idle_microseconds or 1_000_000) / 1e6
        return cls(config.model_transaction_policy.decoupled, idle_s)


@dataclass(eq=False, slots=True)
class Pending:
    """A request on its way."""

    head: Head
    hold: Hold
    place: Place | None
    """Where its answer stands; None for a decoupled model."""
    body: bytes | None
    """Kept while it may have to be sent once more."""


class Lane:
    """A stream that Triton answers on."""

    def __init__(self, server: str, model: str, manner: Manner, stream: Any) -> None:
        self.server, self.model, self.manner = server, model, manner
        self.pending: deque[Pending] = deque()
        self.is_open = True
        self._stream, self._writing, self._uses = stream, asyncio.Lock(), 0

    def use(self) -> None:
        """Somebody more needs it: a request, or a sequence."""
        self._uses += 1

    async def leave(self) -> None:
        """Somebody needs it no more; it ends with the last one."""
        self._uses -= 1
        if self._uses == 0:
            await self.half_close()

    async def send(self, body: bytes) -> None:
        """Forwards a request that uses this lane already.

        Where the stream is broken, whoever reads its answers finds out.
        """
        async with self._writing:
            try:
                await self._stream.write(body)
            except _ENDED:
                self.is_open = False

    def __aiter__(self) -> Any:
        return self._stream.__aiter__()

    def answered(self, answer: StreamAnswer | None) -> Pending | None:
        """The request that an answer belongs to: of an ordinary model, the oldest."""
        oldest = self.pending[0] if self.pending else None
        if answer is None:
            return oldest
        # Requests of the same id, or of none, are all of this model: one does for the other.
        named = (one for one in self.pending if one.head.id == answer.id)
        return next(named, oldest)

    async def settle(self, pending: Pending) -> None:
        """No more comes to a request: it holds its model no longer."""
        self.pending.remove(pending)
        await self.leave()
        await pending.hold.leave()

    def cancel(self) -> None:
        """Tells Triton that nobody waits for what is under way."""
        self.is_open = False
        self._stream.cancel()

    async def half_close(self) -> None:
        """Says that no more requests come; Triton ends the stream once all are answered."""
        if not self.is_open:
            return
        self.is_open = False
        async with self._writing:
            with contextlib.suppress(*_ENDED):
                await self._stream.done_writing()
