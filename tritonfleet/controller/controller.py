"""Carries the ledger's decisions out: loads, warms up, measures, unloads, and wakes who waits.

One event loop and no locks: every event enters the ledger in one synchronous step, and every action
that takes time becomes a supervised task which ends in exactly one further event.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tritonfleet.controller.footprint import Home
from tritonfleet.controller.ledger import (
    Action,
    Decision,
    Drain,
    Grant,
    Ledger,
    Load,
    Phase,
    Prove,
    Reject,
    Unload,
)
from tritonfleet.controller.warmup import prove
from tritonfleet.errors import FleetError, LoadFailed, ServerError, ServerUnreachable
from tritonfleet.server.client import ModelStatistics, TritonClient
from tritonfleet.server.events import ModelEvent, ModelEvents
from tritonfleet.server.memory import model_memory_bytes, release_model_memory
from tritonfleet.server.states import ReadyState

log = logging.getLogger(__name__)
WATCH_S = 2.0
"""Between two looks at a server's statistics and index."""
UNLOAD_RETRY_S = 1.0
RELEASE_POLLS_S = (0.01, 0.01, 0.01)
"""A model's process needs some 15 ms (measured) to give its weights back when told to."""
DEPARTURE_S = 0.5
"""A model that tells of itself and is silent so long after its unload: the datagram was lost."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a model while it lasts: it will not be evicted under its holder."""

    model: str
    server: str
    waited_s: float
    cold: bool
    """Whether the model was not in memory when the holder came; a wait alone proves nothing."""
    proved: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)
    """To be called once the model has answered well: only then is it known to be in order."""


class Memory(Protocol):
    """How a server's memory is read, where it can be. Both calls may block for milliseconds."""

    def model_bytes(self, model: str) -> int | None:
        """Bytes that a model holds; None where that cannot be told."""

    def release(self, model: str) -> bool:
        """Makes a model that is being unloaded give back what it can; False if nothing can."""


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """The memory of a tritonserver on this machine whose models run in processes of their own."""

    pid: int

    def model_bytes(self, model: str) -> int | None:
        """Bytes that would be free without the model."""
        return model_memory_bytes(self.pid, model)

    def release(self, model: str) -> bool:
        """Frees weights and arena at once; the bare process stays until Triton ends it."""
        return release_model_memory(self.pid, model)


@dataclass(frozen=True, slots=True)
class ServerHandle:
    """One running tritonserver, as the controller holds it."""

    client: TritonClient
    memory: Memory | None = None
    events: ModelEvents | None = None
    """What its models tell of themselves, where they do."""

    def told_bytes(self, model: str) -> int | None:
        """What a model says that it holds; None for one that says nothing."""
        return self.events.bytes_of(model) if self.events else None


class Controller:
    """The residency of a fleet, for anybody on the same event loop.

    ``configs`` gives a model's ``ModelConfig``; ``record`` notes what a model was seen to take, and
    where, and returns the figure to charge without waiting for a disk; ``clock`` is monotonic.
    """

    def __init__(
        self,
        ledger: Ledger,
        servers: Mapping[str, ServerHandle],
        *,
        configs: Callable[[str], Any],
        record: Callable[[str, Home, int], int] = lambda _, __, footprint: footprint,
        queue_timeout_s: float = 60.0,
        load_timeout_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self._servers = dict(servers)
        self._configs, self._record, self._clock = configs, record, clock
        self._queue_timeout_s, self._load_timeout_s = queue_timeout_s, load_timeout_s
        self._tickets = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Grant]] = {}
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._departures: Counter[str] = Counter()
        self._with_process: set[str] = set()
        self._charged: dict[str, tuple[Home, int]] = {}
        self._unsubscribe: dict[str, Callable[[], None]] = {}
        self._absent: list[tuple[dict[str, int], asyncio.Future[None]]] = []
        self._alarm: asyncio.TimerHandle | None = None

    # -- for callers -----------------------------------------------------------------------

    async def start(self, pinned: Iterable[str] = ()) -> None:
        """Takes the servers as they are, loads the pinned models, and begins to watch."""
        for name, handle in self._servers.items():
            await self._adopt(name)
            self._attend(name, handle)
        for model in pinned:
            self._apply(self.ledger.pin(model, self._clock()))

    async def stop(self) -> None:
        """Ends all tasks and turns away whoever waits."""
        if self._alarm:
            self._alarm.cancel()
        for future in self._waiting.values():
            future.cancel()
        await self._cancel(list(self._tasks))
        for name, handle in self._servers.items():
            self._unsubscribe.pop(name, _nothing)()
            await handle.client.close()

    @contextlib.asynccontextmanager
    async def lease(self, model: str, timeout_s: float | None = None) -> AsyncIterator[Lease]:
        """Holds a model in memory, loading it first if need be.

        Raises ModelNotFound, ModelTooLarge, FleetSaturated after ``timeout_s``, or LoadFailed.
        """
        ticket, cold = next(self._tickets), self.ledger.ready_on(model) is None
        grant = await self._ask(ticket, model, timeout_s, holds=True)
        try:
            yield Lease(
                grant.model, grant.server, grant.waited_s, cold, lambda: self._answered(grant)
            )
        finally:
            self._apply(self.ledger.release(ticket, self._clock()))

    async def load(self, model: str, timeout_s: float | None = None) -> str:
        """Makes a model READY and gives the server it is on; an earlier failure is forgiven."""
        self.ledger.forgive(model)
        grant = await self._ask(next(self._tickets), model, timeout_s, holds=False)
        return grant.server

    async def unload(self, model: str) -> None:
        """Returns once a model, and the ensembles that need it, have left memory."""
        leaving = {name: self._departures[name] for name in self.ledger.leaves_with(model)}
        self._apply(self.ledger.unload(model, self._clock()))
        if leaving:
            gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._absent.append((leaving, gone))
            self._announce_absent()
            await gone

    def pin(self, model: str) -> None:
        """Keeps a model in memory from now on; PinRefused if it could not stay."""
        self._apply(self.ledger.pin(model, self._clock()))
        log.info("pin model=%s", model)

    def unpin(self, model: str) -> None:
        """Lets a model be evicted again."""
        self._apply(self.ledger.unpin(model, self._clock()))
        log.info("unpin model=%s", model)

    def address(self, server: str) -> str:
        """Where a server takes HTTP, as ``host:port``; ServerUnreachable while it is down."""
        if server not in self._servers:
            raise ServerUnreachable(server, "its address: it is down")
        return self._servers[server].client.endpoint.http

    def addresses(self, server: str) -> dict[str, str]:
        """Where a running server takes HTTP and gRPC, as ``host:port``."""
        endpoint = self._servers[server].client.endpoint
        return {"http": endpoint.http, "grpc": endpoint.grpc}

    def servers(self) -> tuple[str, ...]:
        """The servers that are up."""
        return tuple(self._servers)

    def decisions(self) -> tuple[Decision, ...]:
        """The bounded log of decisions, oldest first."""
        return tuple(self.ledger.decisions)

    def now(self) -> float:
        """The controller's clock, in seconds; only differences mean anything."""
        return self._clock()

    # -- for the supervisor ----------------------------------------------------------------

    async def server_lost(self, name: str) -> None:
        """A server died: whatever it was doing will not end."""
        handle = self._servers.pop(name, None)
        self._unsubscribe.pop(name, _nothing)()
        await self._cancel([task for task, server in self._tasks.items() if server == name])
        self._apply(self.ledger.server_lost(name, self._clock()))
        self._announce_absent()
        if handle:
            await handle.client.close()

    def server_back(self, name: str, handle: ServerHandle) -> None:
        """A server runs again, empty; what it held comes back."""
        self._servers[name] = handle
        self._attend(name, handle)
        self._apply(self.ledger.server_back(name, self._clock()))

    # -- events into the ledger, actions out -------------------------------------------------

    async def _ask(self, ticket: int, model: str, timeout_s: float | None, *, holds: bool) -> Grant:
        now = self._clock()
        deadline = now + (self._queue_timeout_s if timeout_s is None else timeout_s)
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        self._apply(self.ledger.request(ticket, model, now, deadline=deadline, holds=holds))
        try:
            return await future
        except asyncio.CancelledError:
            # The caller left; the grant may have been made in the same moment.
            self._apply(self.ledger.cancel(ticket, self._clock()))
            raise
        finally:
            self._waiting.pop(ticket, None)

    def _apply(self, actions: Iterable[Action]) -> None:
        pending = deque(actions)
        while pending:
            action = pending.popleft()
            if isinstance(action, Grant):
                self._settle_future(action.ticket, action)
            elif isinstance(action, Reject):
                self._settle_future(action.ticket, action.error)
            elif isinstance(action, Drain):
                # Every request we carry holds a lease, and the ledger drains only what has none.
                pending.extend(self.ledger.drained(action.model, self._clock()))
            else:
                self._spawn(self._carry_out(action), action.server)
        self._announce_absent()
        self._set_alarm()

    def _settle_future(self, ticket: int, outcome: Grant | FleetError) -> None:
        future = self._waiting.get(ticket)
        if future is None or future.done():
            return
        if isinstance(outcome, Grant):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    def _set_alarm(self) -> None:
        if self._alarm:
            self._alarm.cancel()
        now = self._clock()
        wakeup = self.ledger.next_wakeup(now)
        self._alarm = None
        if wakeup is not None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(max(0.0, wakeup - now), self._expire)

    def _expire(self) -> None:
        self._apply(self.ledger.expire(self._clock()))

    def _announce_absent(self) -> None:
        pending = []
        for leaving, gone in self._absent:
            # Counted, because a model that left may already be on its way back for somebody else.
            stays = [m for m, seen in leaving.items() if self._departures[m] == seen]
            if any(self.ledger.phase(model) for model in stays):
                pending.append((leaving, gone))
            elif not gone.done():
                gone.set_result(None)
        self._absent = pending

    # -- actions that take time ----------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None], server: str) -> None:
        task = asyncio.ensure_future(self._supervised(work))
        self._tasks[task] = server
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        task.add_done_callback(lambda _: work.close())  # should it end before it began

    async def _supervised(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception:  # a bug in one task must be seen, and must not take the fleet with it
            log.exception("a controller task failed")

    async def _cancel(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, action: Load | Unload | Prove) -> None:
        if isinstance(action, Load):
            await self._load(action)
        elif isinstance(action, Unload):
            await self._unload(action)
        else:
            await self._prove(action)

    async def _load(self, action: Load) -> None:
        handle, model, started = self._servers[action.server], action.model, self._clock()
        try:
            proved = await self._open(handle.client, model)
        except FleetError as error:
            await self._give_up(handle.client, model, error)
            return
        now = self._clock()
        self._apply(self.ledger.loaded(model, now, proved=proved))
        log.info("loaded model=%s server=%s load_s=%.3f", model, action.server, now - started)
        if proved:
            await self._measure(handle, model)

    async def _open(self, client: TritonClient, model: str) -> bool:
        """Loads a model; whether it is also proved, which we leave to a caller who waits for it."""
        deadline = self._clock() + self._load_timeout_s
        await client.load(model, self._load_timeout_s)
        if self.ledger.is_awaited(model):
            return False
        await self._infer_once(client, model, deadline - self._clock())
        return True

    async def _prove(self, action: Prove) -> None:
        handle = self._servers[action.server]
        try:
            await self._infer_once(handle.client, action.model, self._load_timeout_s)
        except FleetError as error:
            await self._give_up(handle.client, action.model, error)
            return
        self._apply(self.ledger.proved(action.model, self._clock()))
        await self._measure_parts(handle, action.model)

    async def _infer_once(self, client: TritonClient, model: str, timeout_s: float) -> None:
        await prove(client, await asyncio.to_thread(self._configs, model), timeout_s)

    def _answered(self, grant: Grant) -> None:
        # Nearly always it is proved already, and nothing is to be done.
        handle = self._servers.get(grant.server)
        if handle is not None and not self.ledger.is_proved(grant.model):
            self._apply(self.ledger.answered(grant.ticket, self._clock()))
            # Only now has it touched the memory that it needs.
            self._spawn(self._measure_parts(handle, grant.model), grant.server)

    async def _give_up(self, client: TritonClient, model: str, error: FleetError) -> None:
        if self.ledger.is_proved(model):
            return  # a caller's answer came before our failure to get one
        reason = error.reason if isinstance(error, LoadFailed) else str(error)
        log.warning("load failed model=%s server=%s: %s", model, client.name, reason)
        self._apply(self.ledger.load_failed(model, reason, self._clock()))
        await self._abandon(client, model)

    async def _abandon(self, client: TritonClient, model: str) -> None:
        """Takes back a load that may still succeed: Triton goes on when its caller has left."""
        with contextlib.suppress(FleetError):
            await client.unload(model)

    async def _unload(self, action: Unload) -> None:
        handle, started = self._servers[action.server], self._clock()
        while True:
            try:
                await self._unload_and_confirm(handle, action.model)
                break
            except ServerError as error:
                # Its memory stays charged until the unload is confirmed or the server is gone.
                log.warning("unload model=%s: %s", action.model, error)
                await asyncio.sleep(UNLOAD_RETRY_S)
        seconds = self._clock() - started
        log.info("unloaded model=%s server=%s unload_s=%.3f", action.model, action.server, seconds)
        self._departures[action.model] += 1
        self._apply(self.ledger.unloaded(action.model, self._clock()))

    async def _unload_and_confirm(self, handle: ServerHandle, model: str) -> None:
        """Triton answers before the memory is free: believe the model, or else the index."""
        if handle.events is not None and handle.told_bytes(model) is not None:
            if await self._departs(handle.client, handle.events, model):
                return
        else:
            await handle.client.unload(model)
            # An ensemble has no memory of its own.
            if handle.memory is not None and not self.ledger.members(model):
                await self._release_early(handle.memory, model)
        await handle.client.until_unloaded(model)
        if handle.events is not None:
            handle.events.forget(model)

    async def _departs(self, client: TritonClient, events: ModelEvents, model: str) -> bool:
        """Unloads a model that tells of itself; False if it did not say that it is gone."""
        gone = events.departure(model)
        try:
            await client.unload(model)
            await asyncio.wait_for(gone, DEPARTURE_S)
        except asyncio.TimeoutError:
            log.warning("unload model=%s: no word from the model; asking the index", model)
            return False
        finally:
            gone.cancel()
        return True

    async def _release_early(self, memory: Memory, model: str) -> None:
        """Most of the memory need not wait out the second that Triton takes over an unload."""
        if not await asyncio.to_thread(memory.release, model):
            return
        for pause_s in RELEASE_POLLS_S:
            await asyncio.sleep(pause_s)
            remaining = await asyncio.to_thread(memory.model_bytes, model)
            if remaining is not None:
                self._apply(self.ledger.shrunk(model, remaining, self._clock()))

    # -- what models take ----------------------------------------------------------------------

    def _heard(self, handle: ServerHandle, event: ModelEvent) -> None:
        size = handle.told_bytes(event.model)
        if size is not None:
            self._with_process.discard(event.model)
            self._charge(event.model, Home.SERVER, size)

    async def _measure_parts(self, handle: ServerHandle, model: str) -> None:
        for part in (model, *self.ledger.members(model)):
            await self._measure(handle, part)

    async def _measure(self, handle: ServerHandle, model: str) -> None:
        """Charges a loaded model that does not tell of itself with what it takes."""
        if handle.told_bytes(model) is not None:
            return
        size = None
        if handle.memory is not None:
            size = await asyncio.to_thread(handle.memory.model_bytes, model)
        if size is not None:
            self._with_process.add(model)
            self._charge(model, Home.PROCESS, size)
        else:
            with contextlib.suppress(FleetError):
                self._believe(handle, await handle.client.statistics(model))

    def _believe(self, handle: ServerHandle, statistics: Mapping[str, ModelStatistics]) -> None:
        """What Triton's statistics say that models hold, where nobody knows better."""
        for model, counted in statistics.items():
            known = model in self._with_process or handle.told_bytes(model) is not None
            if counted.memory_bytes and not known:
                self._charge(model, Home.SERVER, counted.memory_bytes)

    def _charge(self, model: str, home: Home, size: int) -> None:
        if self._charged.get(model) != (home, size) and model in self.ledger.names:
            self._charged[model] = (home, size)
            charge = self._record(model, home, size)
            self._apply(self.ledger.measured(model, charge, self._clock()))

    # -- watching ------------------------------------------------------------------------------

    def _attend(self, name: str, handle: ServerHandle) -> None:
        if handle.events is not None:
            heard = functools.partial(self._heard, handle)
            self._unsubscribe[name] = handle.events.subscribe(heard)
        self._spawn(self._watch(name), name)

    async def _adopt(self, name: str) -> None:
        states = await self._servers[name].client.states()
        for model, entry in states.items():
            if entry.state is ReadyState.READY:
                self._apply(self.ledger.adopt(model, name, self._clock()))

    async def _watch(self, name: str) -> None:
        """Learns of uses, losses and growth that did not go through us."""
        for round_number in itertools.count():
            await asyncio.sleep(WATCH_S)
            with contextlib.suppress(FleetError):
                await self._observe(name)
                await self._bury_dead(name)
            ready = self._ready_on(name)
            if ready:
                # One model a round: memory grows with the largest batch a model has seen.
                await self._measure(self._servers[name], ready[round_number % len(ready)])

    async def _observe(self, name: str) -> None:
        client, ready, as_of = self._servers[name].client, self._ready_on(name), self._clock()
        states = await client.states()
        statistics = await client.statistics()
        self._believe(self._servers[name], statistics)
        used = {
            model: self._from_unix_ms(counted.last_inference_ms)
            for model, counted in statistics.items()
            if counted.last_inference_ms
        }
        gone = [m for m in ready if m not in states or states[m].state in _GONE]
        if gone:
            log.warning("server=%s lost models=%s", name, ",".join(gone))
        self._apply(self.ledger.observed(used, gone, self._clock(), as_of=as_of))

    async def _bury_dead(self, name: str) -> None:
        """Forgets models whose process has died: Triton goes on calling them READY."""
        handle, as_of = self._servers[name], self._clock()
        memory = handle.memory
        if memory is None:
            return
        watched = [model for model in self._ready_on(name) if model in self._with_process]
        sizes = await asyncio.to_thread(lambda: {m: memory.model_bytes(m) for m in watched})
        dead = [model for model, size in sizes.items() if size is None]
        actions = self.ledger.observed({}, dead, self._clock(), as_of=as_of)
        for model in dead:
            if self.ledger.phase(model) is not Phase.READY:
                log.error("server=%s the process of model=%s has died", name, model)
                # Without it the next load would be taken for a repetition and do nothing. It will
                # never end, but a load beside it works.
                await handle.client.unload(model)
        self._apply(actions)

    def _ready_on(self, server: str) -> list[str]:
        views = self.ledger.residents(self._clock())
        return [v.model for v in views if v.server == server and v.phase is Phase.READY]

    def _from_unix_ms(self, milliseconds: int) -> float:
        return self._clock() - (time.time() - milliseconds / 1000)


_GONE = (ReadyState.UNAVAILABLE, ReadyState.UNKNOWN)


def _nothing() -> None:
    """What remains to be done where nothing was begun."""
