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
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tritonfleet.controller.endpoints import Endpoints, NoEndpoints
from tritonfleet.controller.footprint import Home
from tritonfleet.controller.ledger import (
    Action,
    Decision,
    Drain,
    Grant,
    Ledger,
    Load,
    Look,
    ModelFacts,
    Phase,
    Prove,
    Publish,
    Reject,
    Unload,
    Withdraw,
)
from tritonfleet.controller.rollout import Rollouts
from tritonfleet.controller.tally import Tally
from tritonfleet.controller.versions import config_with, entry_of, parts_of
from tritonfleet.controller.warmup import prove
from tritonfleet.errors import (
    FleetError,
    LoadFailed,
    ModelNotFound,
    ServerError,
    ServerUnreachable,
)
from tritonfleet.server.client import ModelStatistics, TritonClient
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.server.events import ModelEvent, ModelEvents
from tritonfleet.server.memory import model_memory_bytes, release_model_memory
from tritonfleet.server.states import ReadyState

log = logging.getLogger(__name__)
_T = TypeVar("_T")
WATCH_S = 2.0
"""Between two looks at a server's statistics and index."""
DEATH_S = 3.0
"""Whoever watches a server's process has told by then that it has died."""
LOOK_S = 0.5
"""A server that does not tell by then what is in use is judged by what was known of it."""
UNLOAD_RETRY_S = 1.0
RELEASE_POLLS_S = (0.01, 0.01, 0.01)
"""A model's process needs some 15 ms (measured) to give its weights back when told to."""
REMAINS_S = 3.0
"""Triton ends the process of a model that failed to load within about a second."""
REMAINS_POLL_S = 0.05
DEPARTURE_S = 0.5
"""A model that tells of itself and is silent so long after its unload: the datagram was lost."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a model while it lasts: it will not be evicted under its holder."""

    model: str
    server: str
    waited_s: float
    version: str
    """What a request that names none must name; empty where the choice is Triton's."""
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
    attached: bool = False
    """Whether it is somebody else's, who may have models of his own on it."""


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
        endpoints: Endpoints | None = None,
        rollouts: Rollouts | None = None,
        queue_timeout_s: float = 60.0,
        load_timeout_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self.rollouts = rollouts or Rollouts()
        self.tally = Tally()
        self._endpoints = endpoints or NoEndpoints()
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
        self._listed: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._absent: list[tuple[dict[str, int], asyncio.Future[None]]] = []
        self._alarm: asyncio.TimerHandle | None = None

    # -- for callers -----------------------------------------------------------------------

    async def start(self, pinned: Iterable[str] = ()) -> None:
        """Takes the servers as they are, loads the pinned models, and begins to watch."""
        await self.rollouts.attach(self)
        for name, handle in self._servers.items():
            await self._adopt(name)
            self._attend(name, handle)
        self.rollouts.resume()
        for model in pinned:
            self._apply(self.ledger.pin(model, self._clock()))
        self._spawn(self.rollouts.watch(), "")

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
    async def lease(
        self, model: str, timeout_s: float | None = None, *, batch: bool = False, version: str = ""
    ) -> AsyncIterator[Lease]:
        """Holds a model in memory, loading it first if need be.

        Callers of the batch class give way to others for a while. A ``version`` that is in memory
        beside another, or has been, is loaded like a model; any other is for Triton to answer.
        Raises ModelNotFound, ModelTooLarge, FleetSaturated after ``timeout_s``, or LoadFailed.
        """
        entry = self._entry_asked_for(model, version)
        ticket, cold = next(self._tickets), self.ledger.ready_on(entry) is None
        grant = await self._ask(ticket, entry, timeout_s, holds=True, batch=batch)
        try:
            yield Lease(
                model,
                grant.server,
                grant.waited_s,
                version or self.rollouts.pinned_version(model),
                cold,
                lambda: self._answered(grant),
            )
        finally:
            self._apply(self.ledger.release(ticket, self._clock()))

    async def load(self, model: str, timeout_s: float | None = None) -> str:
        """Makes a model READY and gives the server it is on; an earlier failure is forgiven."""
        self.ledger.forgive(model)
        grant = await self._ask(next(self._tickets), model, timeout_s, holds=False)
        return grant.server

    async def unload(self, model: str, *, even_pinned: bool = False) -> None:
        """Returns once a model, and the ensembles that need it, have left memory."""
        leaving = {name: self._departures[name] for name in self.ledger.leaves_with(model)}
        self._apply(self.ledger.unload(model, self._clock(), even_pinned=even_pinned))
        if leaving:
            gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._absent.append((leaving, gone))
            self._announce_absent()
            await gone

    def missing(self, model: str) -> None:
        """Triton has said to a caller that it does not hold a model which we took for READY."""
        now = self._clock()
        log.warning("model=%s is not where it was; loading it anew when asked for", model)
        self._apply(self.ledger.observed({}, [model], now, as_of=now))

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
        return self.endpoint(server).http

    def endpoint(self, server: str) -> Endpoint:
        """Where a server listens; ServerUnreachable while it is down."""
        if server not in self._servers:
            raise ServerUnreachable(server, "its address: it is down", sent=False)
        return self._servers[server].client.endpoint

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

    # -- for rollouts ------------------------------------------------------------------------

    async def loaded_versions(self, model: str) -> tuple[int, ...]:
        """The versions of a model that its server has READY, ascending."""
        server = self.ledger.ready_on(model)
        if server is None or server not in self._servers:
            return ()
        index = await self._servers[server].client.index()
        ready = (one for one in index if one.name == model and one.state is ReadyState.READY)
        return tuple(sorted(int(one.version) for one in ready))

    def declare(self, facts: ModelFacts) -> None:
        """One more entry of the fleet."""
        self._apply(self.ledger.declare(facts, self._clock()))

    def retire(self, entry: str) -> None:
        """An entry that the fleet has no more."""
        self._apply(self.ledger.retire(entry, self._clock()))

    def exchange(self, entry: str, former: str) -> None:
        """A further version becomes the model itself, and what was that becomes ``former``."""
        model, _ = parts_of(entry)
        self._apply(self.ledger.exchanged(entry, former, self._clock()))
        for name in (model, entry, former):
            self._charged.pop(name, None)

    def follow(self, entry: str, *, follows: bool) -> None:
        """Whether an entry is loaded beside its model whenever there is room."""
        change = self.ledger.follow if follows else self.ledger.unfollow
        self._apply(change(entry, self._clock()))

    def _entry_asked_for(self, model: str, version: str) -> str:
        entry = f"{model}@{version}"
        if entry in self.ledger.versions_of(model):
            return entry
        # An entry's name is no model's: nobody outside may ask for it.
        if parts_of(model)[1] is not None:
            raise ModelNotFound(model, self.ledger.names)
        return model

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

    async def server_back(self, name: str, handle: ServerHandle) -> None:
        """A server runs again; what it held comes back.

        One that was only out of reach still has it, and nobody has counted it meanwhile: it is
        emptied first.
        """
        await self._empty(name, handle)
        self._servers[name] = handle
        self._attend(name, handle)
        self._apply(self.ledger.server_back(name, self._clock()))

    # -- events into the ledger, actions out -------------------------------------------------

    async def _ask(
        self, ticket: int, model: str, timeout_s: float | None, *, holds: bool, batch: bool = False
    ) -> Grant:
        now = self._clock()
        deadline = now + (self._queue_timeout_s if timeout_s is None else timeout_s)
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        self._apply(
            self.ledger.request(ticket, model, now, deadline=deadline, holds=holds, batch=batch)
        )
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
            elif isinstance(action, Publish):
                self._publish(action)
            elif isinstance(action, Withdraw):
                # Not the server's task: its death must not end this.
                self._spawn(self._close_way(action.model), "")
            elif isinstance(action, Look):
                self._spawn(self._look(action.servers), "")
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

    async def _carry_out(self, action: Load | Drain | Unload | Prove) -> None:
        if isinstance(action, Load):
            await self._load(action)
        elif isinstance(action, Drain):
            await self._drain(action)
        elif isinstance(action, Unload):
            await self._unload(action)
        else:
            await self._prove(action)

    def _publish(self, action: Publish) -> None:
        _, version = parts_of(action.model)
        if version is None:
            self._endpoints.publish(action.model, action.server)
        self._spawn(self.rollouts.appeared(action.model), "")

    async def _drain(self, action: Drain) -> None:
        await self._close_way(action.model)
        self._apply(self.ledger.drained(action.model, self._clock()))

    async def _close_way(self, entry: str) -> None:
        """Returns when no request reaches a model or a version but those that hold a lease."""
        _, version = parts_of(entry)
        while True:
            try:
                if version is None:
                    await self._endpoints.withdraw(entry)
                else:
                    await self.rollouts.leaving(entry)
                return
            except FleetError as error:
                # Better a model that stays too long than a request that finds nothing.
                log.warning("withdraw model=%s: %s", entry, error)
                await asyncio.sleep(UNLOAD_RETRY_S)

    async def _load(self, action: Load) -> None:
        handle, model, started = self._servers[action.server], action.model, self._clock()
        try:
            proved = await self._open(handle.client, model)
        except FleetError as error:
            await self._give_up(handle.client, model, error)
            return
        if parts_of(model)[1] is not None:
            # Before anybody can make it the model itself: what was reserved is more than it takes.
            await self._measure(handle, model)
        now = self._clock()
        self._apply(self.ledger.loaded(model, now, proved=proved))
        self.tally.loads[parts_of(model)[0], action.server].add(now - started)
        log.info("loaded model=%s server=%s load_s=%.3f", model, action.server, now - started)
        if proved:
            await self._measure(handle, model)

    async def _open(self, client: TritonClient, model: str) -> bool:
        """Loads a model; whether it is also proved, which we leave to a caller who waits for it."""
        deadline = self._clock() + self._load_timeout_s
        try:
            await self._bring_in(client, model)
        except LoadFailed as error:
            if not await self.rollouts.fell_back(model, error.reason):
                raise
            await self._processes_gone(client.name, model)
            await self._bring_in(client, model)
        if self.ledger.is_awaited(model):
            return False
        await self._infer_once(client, model, deadline - self._clock())
        return True

    async def _processes_gone(self, server: str, model: str) -> None:
        """What is left of a failed load would be charged to the next one: they share a name."""
        memory = self._servers[server].memory
        ends = self._clock() + REMAINS_S
        while memory is not None and self._clock() < ends:
            if await asyncio.to_thread(memory.model_bytes, model) is None:
                return
            await asyncio.sleep(REMAINS_POLL_S)

    async def _bring_in(self, client: TritonClient, entry: str) -> None:
        model, version = parts_of(entry)
        if version is not None:
            async with self._listed[model]:
                await self._hold_versions(client, model, {version, *self._versions_held(model)})
        elif (chosen := self.rollouts.choose_version(model)) is not None:
            config = await self.rollouts.config_of(model, chosen)
            await self._hold_versions(client, model, {chosen}, config)
        else:
            await client.load(model, self._load_timeout_s)

    def _versions_held(self, model: str) -> set[int | None]:
        """The version that the model itself is, and those loaded beside it."""
        beside = (each for each in self.ledger.versions_of(model) if self._is_held(each))
        return {self.rollouts.base_version(model), *(parts_of(each)[1] for each in beside)}

    def _is_held(self, entry: str) -> bool:
        return self.ledger.phase(entry) in (Phase.READY, Phase.DRAINING)

    async def _hold_versions(
        self,
        client: TritonClient,
        model: str,
        versions: Iterable[int | None],
        config: Any | None = None,
    ) -> None:
        """Makes Triton hold exactly these versions."""
        wanted = [version for version in versions if version is not None]
        if wanted:
            config = config or await asyncio.to_thread(self._configs, model)
            await client.load(model, self._load_timeout_s, config=config_with(config, wanted))

    async def _prove(self, action: Prove) -> None:
        handle = self._servers[action.server]
        try:
            await self._infer_once(handle.client, action.model, self._load_timeout_s)
        except FleetError as error:
            await self._give_up(handle.client, action.model, error)
            return
        self._apply(self.ledger.proved(action.model, self._clock()))
        await self._measure_parts(handle, action.model)

    async def _infer_once(self, client: TritonClient, entry: str, timeout_s: float) -> None:
        model, version = parts_of(entry)
        config = await asyncio.to_thread(self._configs, model)
        if version is None:
            await prove(client, config, timeout_s)
        else:
            await prove(client, config, timeout_s, str(version))

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
        if isinstance(error, ServerUnreachable):
            # It has died, most likely: this task then ends with it, and the model, which has done
            # nothing wrong, is loaded when the server is back.
            await asyncio.sleep(DEATH_S)
        reason = error.reason if isinstance(error, LoadFailed) else str(error)
        self.tally.load_failures[parts_of(model)[0]] += 1
        log.warning("load failed model=%s server=%s: %s", model, client.name, reason)
        self._apply(self.ledger.load_failed(model, reason, self._clock()))
        await self._abandon(client, model)

    async def _abandon(self, client: TritonClient, entry: str) -> None:
        """Takes back a load that may still succeed: Triton goes on when its caller has left."""
        with contextlib.suppress(FleetError):
            await self._take_out(client, entry)

    async def _take_out(self, client: TritonClient, entry: str) -> None:
        """Asks for an unload; of one version of several, by a list without it."""
        model, version = parts_of(entry)
        # One at a time: a list that came after the unload of them all would bring them back.
        async with self._listed[model]:
            if version is None:
                await client.unload(model)
            elif self._is_held(model):
                await self._hold_versions(client, model, self._versions_held(model) - {version})

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
        self.tally.unloads[parts_of(action.model)[0]] += 1
        self._departures[action.model] += 1
        self._apply(self.ledger.unloaded(action.model, self._clock()))

    async def _unload_and_confirm(self, handle: ServerHandle, model: str) -> None:
        """Triton answers before the memory is free: believe the model, or else the index."""
        if handle.events is not None and self._told_bytes(handle, model) is not None:
            if await self._departs(handle.client, handle.events, model):
                return
        else:
            await self._take_out(handle.client, model)
            # An ensemble has no memory of its own; a version shares its model's name with others.
            if handle.memory is not None and not self.ledger.members(model):
                await self._release_early(handle.memory, model)
        name, version = parts_of(model)
        await handle.client.until_unloaded(name, version)
        if handle.events is not None and version is None:
            handle.events.forget(model)

    async def _departs(self, client: TritonClient, events: ModelEvents, model: str) -> bool:
        """Unloads a model that tells of itself; False if it did not say that it is gone."""
        gone = events.departure(*parts_of(model))
        try:
            await self._take_out(client, model)
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
        entry = self._entry_held(event.model, event.version)
        size = self._told_bytes(handle, entry)
        if size is not None:
            self._with_process.discard(entry)
            self._charge(entry, Home.SERVER, size)

    def _entry_held(self, model: str, version: int) -> str:
        """The ledger's entry for a version that a server has: the model itself, or a further."""
        entry = entry_of(model, version)
        return entry if entry in self.ledger.versions_of(model) else model

    def _told_bytes(self, handle: ServerHandle, entry: str) -> int | None:
        """What a model, or a further version, says that it holds; None for one that is silent."""
        if handle.events is None:
            return None
        model, version = parts_of(entry)
        if version is not None:
            return handle.events.bytes_of(model, version)
        others = [parts_of(each)[1] or 0 for each in self.ledger.versions_of(model)]
        return handle.events.bytes_of(model, apart_from=others)

    async def _measure_parts(self, handle: ServerHandle, model: str) -> None:
        for part in (model, *self.ledger.members(model)):
            await self._measure(handle, part)

    async def _measure(self, handle: ServerHandle, model: str) -> None:
        """Charges a loaded model that does not tell of itself with what it takes."""
        if self._told_bytes(handle, model) is not None:
            return
        size = None
        # Processes are known by their model's name, so versions cannot be told apart.
        if handle.memory is not None and not self.ledger.versions_of(parts_of(model)[0]):
            size = await asyncio.to_thread(handle.memory.model_bytes, model)
        if size is not None:
            self._with_process.add(model)
            self._charge(model, Home.PROCESS, size)
        else:
            with contextlib.suppress(FleetError):
                self._believe(handle, await self._statistics(handle.client, model))
        name, version = parts_of(model)
        if version is not None and model not in self._charged and self.ledger.knows(model):
            # Nobody can tell: as much as the version beside it, now that it has been opened.
            size = self.ledger.footprint(name)
            self._apply(self.ledger.measured(model, size, self._clock()))

    async def _statistics(self, client: TritonClient, entry: str) -> dict[str, ModelStatistics]:
        model, _ = parts_of(entry)
        if self.ledger.versions_of(model):
            return self._by_entry(await client.version_statistics())
        return await client.statistics(model)

    def _by_entry(
        self, statistics: Mapping[tuple[str, int], ModelStatistics]
    ) -> dict[str, ModelStatistics]:
        found: dict[str, ModelStatistics] = {}
        for (model, version), counted in statistics.items():
            entry = self._entry_held(model, version)
            known = found.get(entry)
            found[entry] = known.with_those_of(counted) if known else counted
        return found

    def _believe(self, handle: ServerHandle, statistics: Mapping[str, ModelStatistics]) -> None:
        """What Triton's statistics say that models hold, where nobody knows better."""
        for model, counted in statistics.items():
            known = model in self._with_process or self._told_bytes(handle, model) is not None
            if counted.memory_bytes and not known:
                self._charge(model, Home.SERVER, counted.memory_bytes)

    def _charge(self, model: str, home: Home, size: int) -> None:
        versions = self.ledger.versions_of(parts_of(model)[0])
        if self._charged.get(model) != (home, size) and self.ledger.knows(model):
            self._charged[model] = (home, size)
            # What is kept for later belongs to the one version that is published.
            charge = size if versions else self._record(model, home, size)
            self._apply(self.ledger.measured(model, charge, self._clock()))

    # -- watching ------------------------------------------------------------------------------

    def _attend(self, name: str, handle: ServerHandle) -> None:
        if handle.events is not None:
            heard = functools.partial(self._heard, handle)
            self._unsubscribe[name] = handle.events.subscribe(heard)
        self._spawn(self._watch(name), name)

    async def _adopt(self, name: str) -> None:
        client = self._servers[name].client
        ready = [one for one in await client.index() if one.state is ReadyState.READY]
        found: dict[str, list[int]] = {}
        for one in ready:
            found.setdefault(one.name, []).append(int(one.version))
        strangers = [model for model in found if not self.ledger.knows(model)]
        await self._send_away(name, self._servers[name], strangers)
        for model in (model for model in found if model not in strangers):
            for entry in await self.rollouts.adopted(model, found[model]):
                self._apply(self.ledger.adopt(entry, name, self._clock()))

    async def _empty(self, name: str, handle: ServerHandle) -> None:
        """Nobody has counted what a server holds that was lost and is back."""
        try:
            index = await handle.client.index()
        except FleetError as error:  # the watch will tell what is there
            log.warning("server=%s does not say what it holds: %s", name, error)
            return
        held = {one.name for one in index if one.state not in _GONE}
        await self._send_away(name, handle, held)

    async def _send_away(self, name: str, handle: ServerHandle, models: Iterable[str]) -> None:
        """Unloads what would take memory that nobody counts; a stranger's on his own server stays.

        Returns when they are gone, or cannot be made to go.
        """
        found = set(models)
        strangers = {model for model in found if handle.attached and not self.ledger.knows(model)}
        if strangers:
            told = ",".join(sorted(strangers))
            log.warning("server=%s models=%s are not the fleet's; nobody counts them", name, told)
        if not (leaving := sorted(found - strangers)):
            return
        log.warning("server=%s holds models=%s; unloading", name, ",".join(leaving))
        try:
            for model in leaving:
                await handle.client.unload(model)
            gone = [handle.client.until_unloaded(model) for model in leaving]
            await asyncio.wait_for(asyncio.gather(*gone), _EMPTY_TIMEOUT_S)
        except (FleetError, asyncio.TimeoutError) as error:
            log.warning("server=%s keeps some of them: %r", name, error)

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
        there = {
            known
            for one in await client.index()
            if one.state not in _GONE
            for known in (one.name, f"{one.name}@{one.version}")
        }
        statistics, in_flight = await self._use(name), await self._endpoints.in_flight()
        self._believe(self._servers[name], statistics)
        gone = [model for model in ready if model not in there]
        if gone:
            log.warning("server=%s lost models=%s", name, ",".join(gone))
        self._apply(
            self.ledger.observed(
                self._last_uses(statistics),
                gone,
                self._clock(),
                as_of=as_of,
                in_flight=in_flight,
                looked_at=[name],
            )
        )

    async def _look(self, servers: tuple[str, ...]) -> None:
        """Sees what is in use on some servers, at once: somebody waits for this."""
        as_of = self._clock()
        in_flight, uses = await asyncio.gather(
            _in_time(self._endpoints.in_flight()),
            asyncio.gather(*(_in_time(self._used_on(server)) for server in servers)),
        )
        used = {model: at for each in uses for model, at in (each or {}).items()}
        self._apply(
            self.ledger.observed(
                used, (), self._clock(), as_of=as_of, in_flight=in_flight, looked_at=servers
            )
        )

    async def _used_on(self, server: str) -> dict[str, float]:
        return self._last_uses(await self._use(server))

    async def _use(self, name: str) -> dict[str, ModelStatistics]:
        """What a server counts for each entry; nothing for one that is down."""
        if name not in self._servers:
            return {}
        client = self._servers[name].client
        if self.ledger.has_versions:
            return self._by_entry(await client.version_statistics())
        return await client.statistics()

    def _last_uses(self, statistics: Mapping[str, ModelStatistics]) -> dict[str, float]:
        return {
            model: self._from_unix_ms(counted.last_inference_ms)
            for model, counted in statistics.items()
            if counted.last_inference_ms
        }

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


_EMPTY_TIMEOUT_S = 30.0
_GONE = (ReadyState.UNAVAILABLE, ReadyState.UNKNOWN)


def _nothing() -> None:
    """What remains to be done where nothing was begun."""


async def _in_time(work: Awaitable[_T]) -> _T | None:
    """What somebody waits for with a decision; None when it cannot be had at once."""
    try:
        return await asyncio.wait_for(work, LOOK_S)
    except (FleetError, asyncio.TimeoutError) as error:
        log.debug("a look failed: %r", error)
    except Exception:  # whatever it is, the decision must be made, or callers wait for ever
        log.exception("a look failed")
    return None
