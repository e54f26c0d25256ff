"""``ModelStreamInfer``: relayed message by message, because every message names its own model.

Requests are taken in one at a time, so that at most one of them waits for its model, and a client
that sends faster than its models answer is held back by its own connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio

from tritonfleet.controller.controller import Controller
from tritonfleet.errors import FleetError, ServerUnreachable
from tritonfleet.gateway.activator import is_absent
from tritonfleet.gateway.desk import Desk
from tritonfleet.gateway.grpc_front.call import Call
from tritonfleet.gateway.grpc_front.channels import Channels
from tritonfleet.gateway.grpc_front.holds import Hold, SequenceKey, Sequences
from tritonfleet.gateway.grpc_front.lanes import Lane, Manner, Pending
from tritonfleet.gateway.grpc_front.messages import (
    Head,
    directed,
    error_answer,
    error_of,
    read_answer,
    read_head,
    with_empty_final,
    with_fallback,
)
from tritonfleet.gateway.grpc_front.outbox import Outbox, Place

log = logging.getLogger(__name__)
METHOD = "ModelStreamInfer"
MANNER_S = 1.0
"""So long a model's published configuration is believed without another look."""
RECONNECT_S = 0.2
"""Before a request is sent again that met a server which was not there."""
FAREWELL_S = 5.0
"""How long Triton may take to end a stream on which nothing is under way."""


class Streams:
    """All streams of all clients; ``configs`` gives a model's ``ModelConfig``."""

    def __init__(
        self,
        controller: Controller,
        desk: Desk,
        channels: Channels,
        configs: Callable[[str], Any],
    ) -> None:
        self.controller, self.desk, self.channels = controller, desk, channels
        self._configs = configs
        self._manners: dict[str, tuple[float, Manner]] = {}
        self._farewells: set[asyncio.Task[None]] = set()

    async def relay(
        self,
        requests: AsyncIterator[bytes],
        call: Call,
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """Answers a client's stream until it ends."""
        await _Stream(self, call, write).run(requests)

    async def manner(self, model: str) -> Manner:
        """How a model answers, as published."""
        now = asyncio.get_running_loop().time()
        read_s, manner = self._manners.get(model, (-MANNER_S, None))
        if manner is None or now - read_s > MANNER_S:
            manner = Manner.of(await asyncio.to_thread(self._configs, model))
            self._manners[model] = (now, manner)
        return manner

    def part_with(self, lane: Lane, reader: asyncio.Task[None]) -> None:
        """Has a stream on which nothing is under way come to its end, without waiting for it.

        Not by a cancellation: one that meets the last answer of a decoupled model on its way may
        keep Triton from ever unloading the model.
        """
        task = asyncio.create_task(_bid_farewell(lane, reader))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def close(self) -> None:
        """Waits for the streams that are being ended."""
        await asyncio.gather(*self._farewells, return_exceptions=True)


async def _bid_farewell(lane: Lane, reader: asyncio.Task[None]) -> None:
    await lane.half_close()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(reader, FAREWELL_S)


def _key(head: Head) -> SequenceKey:
    return head.model, head.sequence_id


class _Stream:
    """One client's stream, with the streams to tritonservers that it needs."""

    def __init__(
        self, streams: Streams, call: Call, write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self._streams, self._call, self._outbox = streams, call, Outbox(write)
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._readers: dict[asyncio.Task[None], Lane] = {}
        self._replays: set[asyncio.Task[None]] = set()
        self._sequences: Sequences[Lane] = Sequences()

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        """Takes requests in until the client has said all, and then waits for the last answer."""
        try:
            async for body in requests:
                await self._take(body)
            while self._readers or self._replays:
                await self._finish()
        finally:
            await self._end()

    # -- requests ------------------------------------------------------------------------------

    async def _take(self, body: bytes) -> None:
        head: Head | None = None
        try:
            head = read_head(body)
            await self._forward(head, body)
        except FleetError as error:
            await self._refuse(self._outbox.place(), head.id if head else "", error)

    async def _forward(self, head: Head, body: bytes) -> None:
        hold, lane = await self._way(head, len(body))
        place = None if lane.manner.decoupled else self._outbox.place()
        # A part of a sequence is never sent twice: the state that it builds on has gone.
        kept = None if head.sequence_id else body
        pending = Pending(head, hold, place, kept)
        lane.pending.append(pending)
        await self._note_sequence(pending, lane)
        await self._send(lane, pending, body)

    async def _way(self, head: Head, size_bytes: int) -> tuple[Hold, Lane]:
        """Where a request goes, with one use of each counted for it already."""
        going = self._sequences.going(_key(head)) if head.sequence_id else None
        if going is None:
            return await self._new_way(head, size_bytes, self._lane)
        hold, lane = going
        if not lane.is_open:  # its server has gone, and its state with it
            await self._sequences.close(_key(head))
            return await self._new_way(head, size_bytes, self._lane)
        hold.use()
        lane.use()
        return hold, lane

    async def _new_way(
        self, head: Head, size_bytes: int, lane_of: Callable[[Hold], Awaitable[Lane]]
    ) -> tuple[Hold, Lane]:
        hold = await Hold.take(self._streams.desk, self._call.asked(head, size_bytes))
        hold.use()
        try:
            return hold, await lane_of(hold)
        except BaseException:
            await hold.leave()
            raise

    async def _note_sequence(self, pending: Pending, lane: Lane) -> None:
        head, idle_s = pending.head, lane.manner.sequence_idle_s
        if not head.sequence_id or idle_s is None:
            return
        if head.sequence_end:
            await self._sequences.close(_key(head))
        else:
            self._sequences.open(_key(head), pending.hold, lane, idle_s)

    async def _send(self, lane: Lane, pending: Pending, body: bytes) -> None:
        admission = pending.hold.admission
        body = directed(body, pending.head, admission.model, admission.version)
        await lane.send(with_empty_final(body) if lane.manner.decoupled else body)

    # -- streams to tritonservers --------------------------------------------------------------

    async def _lane(self, hold: Hold) -> Lane:
        """The stream that requests for the model of a hold go on, used once more."""
        key = (hold.admission.server, hold.admission.model)
        lane = self._lanes.get(key)
        if lane is not None and lane.is_open:
            lane.use()
            return lane
        lane = self._lanes[key] = await self._new_lane(hold)
        return lane

    async def _new_lane(self, hold: Hold) -> Lane:
        server, model = hold.admission.server, hold.admission.model
        manner = await self._streams.manner(model)
        stream = self._streams.channels.stream(server, METHOD, self._call.passed_on)
        lane = Lane(server, model, manner, stream)
        lane.use()
        reader = asyncio.create_task(self._read(lane))
        self._readers[reader] = lane
        reader.add_done_callback(self._forget)
        return lane

    def _forget(self, reader: asyncio.Task[None]) -> None:
        lane = self._readers.pop(reader)
        if self._lanes.get((lane.server, lane.model)) is lane:
            del self._lanes[lane.server, lane.model]

    async def _read(self, lane: Lane) -> None:
        """Passes answers on until a stream to Triton ends, and settles what it left open."""
        ending: FleetError | grpc.aio.AioRpcError | None = None
        try:
            async for message in lane:
                await self._answer(lane, message)
        except grpc.aio.AioRpcError as error:
            ending = self._streams.channels.translated(error, lane.server, METHOD) or error
        except Exception:  # a bug in one lane must be seen, and must not leave a client waiting
            log.exception("a stream to a tritonserver failed")
        await self._settle_all(lane, ending)

    async def _settle_all(
        self, lane: Lane, ending: FleetError | grpc.aio.AioRpcError | None
    ) -> None:
        lane.is_open = False
        while lane.pending:
            pending = lane.pending[0]
            await lane.settle(pending)
            if (
                pending.body is not None
                and isinstance(ending, ServerUnreachable)
                and not ending.sent
            ):
                self._spawn_replay(pending, pending.body, RECONNECT_S)
            # A decoupled model need not answer at all, and Triton ends the stream when all is said.
            elif ending is not None or pending.place is not None:
                ended = ending or ServerUnreachable(lane.server, "its stream, which it has ended")
                await self._refuse(pending.place, pending.head.id, ended)

    # -- answers -------------------------------------------------------------------------------

    async def _answer(self, lane: Lane, message: bytes) -> None:
        answer = read_answer(message) if lane.manner.decoupled else None
        pending = lane.answered(answer)
        if pending is None:
            await self._outbox.deliver_now(message)
            return
        error = answer.error if answer else error_of(message)
        if pending.body is not None and await self._is_missing(pending, error):
            self._streams.controller.missing(lane.model)
            await lane.settle(pending)
            self._spawn_replay(pending, pending.body)
            return
        if not error:
            pending.hold.admission.proved()
        if answer is None or answer.final:
            await lane.settle(pending)
        if answer is None or pending.head.wants_empty_final or not answer.empty:
            await self._deliver(pending, message, failed=bool(error))

    async def _deliver(self, pending: Pending, message: bytes, *, failed: bool) -> None:
        fallback = pending.hold.admission.fallback
        if fallback is not None and not failed:
            message = with_fallback(message, fallback)
        await self._put(pending.place, message)

    async def _refuse(
        self, place: Place | None, request_id: str, error: FleetError | grpc.aio.AioRpcError
    ) -> None:
        text = str(error) if isinstance(error, FleetError) else str(error.details())
        await self._put(place, error_answer(text, request_id))

    async def _put(self, place: Place | None, message: bytes) -> None:
        if place is None:
            await self._outbox.deliver_now(message)
        else:
            await self._outbox.deliver(place, message)

    # -- once more -----------------------------------------------------------------------------

    async def _is_missing(self, pending: Pending, error: str) -> bool:
        """Whether Triton says that it does not hold the model, and so has run nothing."""
        return await is_absent(error, pending.hold.admission, self._streams.controller)

    def _spawn_replay(self, pending: Pending, body: bytes, pause_s: float = 0.0) -> None:
        task = asyncio.create_task(self._replay(pending, body, pause_s))
        self._replays.add(task)
        task.add_done_callback(self._replays.discard)

    async def _replay(self, pending: Pending, body: bytes, pause_s: float) -> None:
        """Sends a request once more that has certainly not been run."""
        pending.body = None
        await asyncio.sleep(pause_s)
        try:
            await self._send_again(pending, body)
        except FleetError as error:
            await self._refuse(pending.place, pending.head.id, error)

    async def _send_again(self, pending: Pending, body: bytes) -> None:
        # On a stream of its own: on the other one an answer that has to wait for this one may
        # stand before it.
        pending.hold, lane = await self._new_way(pending.head, len(body), self._new_lane)
        lane.pending.append(pending)
        if pending.place is not None and lane.manner.decoupled:
            self._outbox.give_up(pending.place)
            pending.place = None
        await self._send(lane, pending, body)

    # -- the end -------------------------------------------------------------------------------

    async def _finish(self) -> None:
        for lane in list(self._readers.values()):
            await lane.half_close()
        tasks = [*self._readers, *self._replays]
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _end(self) -> None:
        self._outbox.close()
        for task in self._replays:
            task.cancel()
        for reader, lane in list(self._readers.items()):
            if lane.pending:
                lane.cancel()
                reader.cancel()
            else:
                self._streams.part_with(lane, reader)
        for lane in list(self._readers.values()):
            while lane.pending:
                await lane.settle(lane.pending[0])
        await self._sequences.close_all()
