"""Which models are resident, and where.

Events go in, actions come out. Nothing here waits, talks to a server or reads a clock: every event
brings the time with it. Each public event changes the state and then calls ``_settle``, the one
place where state turns into actions.

Two sums are kept for every server. *Promised* (RESERVED, LOADING, READY) is what planning counts;
*occupied* (LOADING, READY, DRAINING, UNLOADING) is what its memory holds. A load is planned against
the first and started only when it fits beside the second.

A model that somebody waits for is granted as soon as Triton has opened it, *unproven*: the first
answer proves it. Until then it stays, because an unload on the heels of a load can crash a server.

A proved model is *published*: requests go straight to it and take no lease. What is known of them
is what was last seen, so nobody leaves on old news: an eviction is decided only after a fresh look.
"""

from __future__ import annotations

import enum
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from tritonfleet.controller.policy import Holding, Plan, Policy, ServerView, Wanted
from tritonfleet.errors import (
    FleetError,
    FleetSaturated,
    LoadFailed,
    ModelNotFound,
    ModelTooLarge,
    PinRefused,
    QueueFull,
)
from tritonfleet.units import format_bytes

BACKOFF_FIRST_S = 5.0
"""Pause after a first failed load; doubled with each further failure in a row."""
BACKOFF_LONGEST_S = 900.0
RESIDENCY_PER_LOAD = 4.0
"""A model that took t seconds to load stays this many times t, but no longer than the minimum."""
AGING_S = 10.0
"""A caller who has waited so long is served as if its model were one priority higher."""
BATCH_PATIENCE = 5.0
"""A caller of the batch class is patient so many times as long, and gives way to others so long."""
LOOK_AGAIN_S = 0.1
"""While callers wait for models that were in use when last seen."""
_NOBODY = Wanted("", (), priority=10)
"""For whom room is made when no caller asks for it; nobody is less important."""


class Phase(enum.Enum):
    """Where a model stands on one server; absent means it is not there at all."""

    RESERVED = "RESERVED"
    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    UNLOADING = "UNLOADING"


PROMISED = frozenset({Phase.RESERVED, Phase.LOADING, Phase.READY})
OCCUPIED = frozenset({Phase.LOADING, Phase.READY, Phase.DRAINING, Phase.UNLOADING})
LEAVING = frozenset({Phase.DRAINING, Phase.UNLOADING})
HOLDING = frozenset({Phase.LOADING, Phase.READY, Phase.DRAINING})


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the ledger must know of a model."""

    name: str
    footprint: int
    """Bytes of memory when loaded, as far as is known; corrected by ``measured``."""
    priority: int = 5
    requires: tuple[str, ...] = ()
    """Models that must be READY on the same server before this one can load."""
    max_concurrency: int | None = None
    queue_limit: int | None = None
    state_idle_s: float = 0.0
    """For so long after its last use it may hold the state of a sequence, and must stay."""
    version_of: str = ""
    """The model that this entry is a further version of; empty for a model itself."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the ledger must know of a server."""

    name: str
    capacity: int
    """Bytes that models may occupy: the budget, after any margin."""
    concurrent_loads: int = 2
    margin: int = 0
    """Bytes beyond it that footprints may grow into before others have made room."""
    head_room: int = 0
    """Bytes of the capacity to keep free for the next load, as long as nobody needs them."""


@dataclass(frozen=True, slots=True)
class Load:
    """Load the model now: its memory is free."""

    model: str
    server: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Requests may go straight to the model from now on."""

    model: str
    server: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The model is gone with its server, or from it: requests must not go there any more."""

    model: str
    server: str


@dataclass(frozen=True, slots=True)
class Look:
    """Say what is in use on these servers: somebody may have to leave."""

    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """Send no more requests to the model, and say when none is in flight."""

    model: str
    server: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Unload the model, and say when its memory is free."""

    model: str
    server: str


@dataclass(frozen=True, slots=True)
class Prove:
    """Show by an inference that the model answers: nobody who used it has."""

    model: str
    server: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The caller may use the model until it releases its ticket."""

    ticket: int
    model: str
    server: str
    waited_s: float


@dataclass(frozen=True, slots=True)
class Reject:
    """The caller will not get the model."""

    ticket: int
    error: FleetError


Action: TypeAlias = Load | Publish | Withdraw | Look | Drain | Unload | Prove | Grant | Reject


@dataclass(frozen=True, slots=True)
class Decision:
    """One eviction or load, with what spoke for it and against the alternatives."""

    at: float
    model: str
    server: str
    evicted: tuple[str, ...]
    reason: str
    kept: tuple[tuple[str, str], ...] = ()
    """The models that stayed, each with why."""


@dataclass(slots=True)
class _Resident:
    model: str
    server: str
    footprint: int
    since: float
    phase: Phase = Phase.RESERVED
    last_used: float = 0.0
    load_s: float = 0.0
    leases: set[int] = field(default_factory=set)
    in_flight: int = 0
    """Requests under way without a lease, when last seen."""
    published: bool = False
    proved: bool = False
    proof_ordered: bool = False
    drain_ordered: bool = False
    told_to_leave: bool = False


@dataclass(slots=True)
class _Waiter:
    ticket: int
    model: str
    since: float
    deadline: float
    holds: bool
    """Whether the caller takes a lease, or only wants to see the model READY."""
    batch: bool
    impatient_at: float

    def gives_way(self, now: float) -> bool:
        """Whether callers of the interactive class come first."""
        return self.batch and now < self.impatient_at


@dataclass(frozen=True, slots=True, order=True)
class _Want:
    """One model that should be in memory; sorted by who comes first."""

    rank: int
    """0: callers wait; 1: only such that give way; 2: pinned; 3: it may be there."""
    urgency: float
    since: float
    model: str
    impatient_at: float

    @property
    def demanded(self) -> bool:
        """Whether callers wait for it."""
        return self.rank <= 1

    @property
    def may_evict(self) -> bool:
        """Whether others may have to leave for it."""
        return self.rank <= 2


@dataclass(slots=True)
class _Failure:
    count: int
    reason: str
    retry_at: float


@dataclass(frozen=True, slots=True)
class ResidentView:
    """A resident model, for people and for the metrics."""

    model: str
    server: str
    phase: Phase
    footprint: int
    last_used: float
    since: float
    leases: int
    in_flight: int
    """Requests under way without a lease, when last seen."""
    stays_because: str | None


class Ledger:
    """The state of the fleet's memory, and every decision about it."""

    def __init__(
        self,
        models: Iterable[ModelFacts],
        servers: Iterable[ServerFacts],
        policy: Policy,
        *,
        patience_s: float = 2.0,
        min_residency_s: float = 10.0,
        fresh_s: float = 0.05,
        decisions_kept: int = 1000,
    ) -> None:
        """``fresh_s`` is how old news of what is in use may be when somebody must leave."""
        self._models = {model.name: model for model in models}
        self._servers = {server.name: server for server in servers}
        self._policy = policy
        self._patience_s = patience_s
        self._min_residency_s, self._fresh_s = min_residency_s, fresh_s
        self._residents: dict[str, _Resident] = {}
        self._waiters: dict[int, _Waiter] = {}
        self._tickets: dict[int, str] = {}
        self._failures: dict[str, _Failure] = {}
        self._pinned: set[str] = set()
        self._restore: dict[str, float] = {}
        self._followers: set[str] = set()
        self._retired: set[str] = set()
        self._down: set[str] = set()
        self._looked: dict[str, float] = {}
        self._looking: set[str] = set()
        self._to_look: set[str] = set()
        self._lost: list[Withdraw] = []
        self._footprints = {name: model.footprint for name, model in self._models.items()}
        self._reckon()
        self.decisions: deque[Decision] = deque(maxlen=decisions_kept)
        self.evictions: Counter[str] = Counter()
        """How often each model, or a version of it, had to leave unasked."""

    # -- events ------------------------------------------------------------------------------

    def request(
        self,
        ticket: int,
        model: str,
        now: float,
        *,
        deadline: float,
        holds: bool = True,
        batch: bool = False,
    ) -> list[Action]:
        """Somebody wants a model: a lease on it, or (``holds=False``) only to see it READY."""
        refusal = self._refusal(model, now, holds)
        if refusal is not None:
            return [Reject(ticket, refusal)]
        impatient_at = now + self._patience_s * (BATCH_PATIENCE if batch else 1.0)
        self._waiters[ticket] = _Waiter(ticket, model, now, deadline, holds, batch, impatient_at)
        return self._settle(now)

    def cancel(self, ticket: int, now: float) -> list[Action]:
        """A caller left: its wait ends, or its lease if it was granted meanwhile."""
        if self._waiters.pop(ticket, None) is None:
            return self.release(ticket, now)
        return self._settle(now)

    def release(self, ticket: int, now: float) -> list[Action]:
        """A caller is done with its lease; unknown tickets are ignored."""
        model = self._tickets.pop(ticket, None)
        resident = self._residents.get(model) if model else None
        if resident is None or ticket not in resident.leases:
            return []
        resident.leases.discard(ticket)
        self._touch(resident.model, now)
        return self._settle(now)

    def loaded(self, model: str, now: float, *, proved: bool = True) -> list[Action]:
        """A load ended well; an inference has proved it, or its first caller will."""
        resident = self._residents.get(model)
        if resident is None or resident.phase is not Phase.LOADING:
            return []
        resident.phase, resident.load_s, resident.since = Phase.READY, now - resident.since, now
        resident.last_used = now
        self._restore.pop(model, None)
        if self._waiting_for(model) and not any(map(self._is_leaving, self.members(model))):
            resident.told_to_leave = False
        if proved:
            self._note_proof(resident)
        return self._settle(now)

    def answered(self, ticket: int, now: float) -> list[Action]:
        """The holder of a lease got an answer that only a model in order gives."""
        model = self._tickets.get(ticket)
        return self.proved(model, now) if model else []

    def proved(self, model: str, now: float) -> list[Action]:
        """An inference shows that a model answers, and so do the members it ran through."""
        if model not in self._models:
            return []  # a version that has changed places meanwhile was proved before
        for name in (model, *self.members(model)):
            resident = self._residents.get(name)
            if resident is not None and resident.phase is Phase.READY:
                self._note_proof(resident)
        return self._settle(now)

    def load_failed(self, model: str, reason: str, now: float) -> list[Action]:
        """A load or its proof ended badly: whoever waits is told, the next try is put off."""
        resident = self._residents.get(model)
        if resident is None or not self._on_trial(resident):
            return []
        for name in self._unit(model):
            # Triton takes ensembles down with their member.
            self._forget(self._residents[name])
        count = self._failures[model].count + 1 if model in self._failures else 1
        pause = min(BACKOFF_FIRST_S * 2 ** (count - 1), BACKOFF_LONGEST_S)
        self._failures[model] = _Failure(count, reason, now + pause)
        self._restore.pop(model, None)
        actions: list[Action] = []
        for name in [model, *self._dependents(model)]:
            actions += self._reject_waiters(name, self._load_failed_error(name, now))
        return actions + self._settle(now)

    def measured(self, model: str, footprint: int, now: float) -> list[Action]:
        """The memory a loaded model really takes; if it is too much, others or it must go."""
        self._footprints[model] = footprint
        resident = self._residents.get(model)
        # Not while it is UNLOADING: what it gave back early may be somebody else's by now.
        if resident is not None and resident.phase in HOLDING:
            resident.footprint = footprint
        return self._settle(now)

    def drained(self, model: str, now: float) -> list[Action]:
        """Nothing is in flight for a draining model any more."""
        resident = self._residents.get(model)
        if resident is None or resident.phase is not Phase.DRAINING:
            return []
        resident.phase, resident.published = Phase.UNLOADING, False
        return [Unload(model, resident.server), *self._settle(now)]

    def shrunk(self, model: str, remaining: int, now: float) -> list[Action]:
        """A model that is being unloaded holds only so much any more."""
        resident = self._residents.get(model)
        if resident is None or resident.phase is not Phase.UNLOADING:
            return []
        resident.footprint = min(resident.footprint, remaining)
        return self._settle(now)

    def unloaded(self, model: str, now: float) -> list[Action]:
        """The memory of an unloaded model is free."""
        resident = self._residents.get(model)
        if resident is None or resident.phase is not Phase.UNLOADING:
            return []
        del self._residents[model]
        return self._settle(now)

    def expire(self, now: float) -> list[Action]:
        """Time has passed: late waiters are refused, impatient ones may drain busy models."""
        actions: list[Action] = []
        for waiter in [w for w in self._waiters.values() if w.deadline <= now]:
            del self._waiters[waiter.ticket]
            actions.append(Reject(waiter.ticket, self._too_late(waiter, now)))
        return actions + self._settle(now)

    def observed(
        self,
        used: Mapping[str, float],
        gone: Iterable[str],
        now: float,
        *,
        as_of: float,
        in_flight: Mapping[str, int] | None = None,
        looked_at: Iterable[str] = (),
    ) -> list[Action]:
        """What was seen at ``as_of``: when models were last used, and which were lost.

        ``in_flight`` has the requests that take no lease, of all models, where they were counted.
        The servers ``looked_at`` are known as well as can be: what a ``Look`` asks for.
        """
        for model, last_used in used.items():
            if model in self._models:  # a server may have more than is ours
                self._touch(model, last_used)
        if in_flight is not None:
            for each in self._residents.values():
                each.in_flight = in_flight.get(each.model, 0)
        for server in looked_at:
            # From now and not from as_of: a slow look must not call for the next one.
            self._looked[server] = now
            self._looking.discard(server)
        for model in gone:
            resident = self._residents.get(model)
            # One that was loaded after the server was asked is not lost.
            if resident and resident.phase is Phase.READY and resident.since < as_of:
                self._forget(resident)
        return self._settle(now)

    def adopt(self, model: str, server: str, now: float) -> list[Action]:
        """A model that was found loaded on a server when the controller started."""
        if model in self._models and model not in self._residents:
            footprint = self._footprints[model]
            self._residents[model] = _Resident(
                model, server, footprint, now, Phase.READY, now, proved=True
            )
        return self._settle(now)

    def server_lost(self, server: str, now: float) -> list[Action]:
        """A server died with all it held; waiters stay, and its models come back with it."""
        self._down.add(server)
        self._looked.pop(server, None)
        for resident in [r for r in self._residents.values() if r.server == server]:
            # An unproven one may be what killed it.
            if resident.phase is Phase.READY and resident.proved:
                self._restore[resident.model] = resident.last_used
            self._forget(resident)
        return self._settle(now)

    def server_back(self, server: str, now: float) -> list[Action]:
        """A server answers again, empty."""
        self._down.discard(server)
        return self._settle(now)

    def pin(self, model: str, now: float) -> list[Action]:
        """The model is loaded if it is not, and never evicted; PinRefused if it could not stay."""
        self._known(model)
        pinned = self._closure({*self._pinned, model})
        total = sum(self._footprints[name] for name in pinned)
        room = sum(server.capacity for server in self._servers.values())
        if self._too_large(model) or total > room:
            raise PinRefused(
                model,
                f"pinning it would promise {format_bytes(total)} of {format_bytes(room)}. "
                "Unpin another model, or raise the capacity.",
            )
        self._pinned.add(model)
        for name in self._closure({model}) & self._residents.keys():
            self._residents[name].told_to_leave = False
        return self._settle(now)

    def unpin(self, model: str, now: float) -> list[Action]:
        """The model may be evicted again."""
        self._known(model)
        self._pinned.discard(model)
        return self._settle(now)

    def unload(self, model: str, now: float, *, even_pinned: bool = False) -> list[Action]:
        """The model leaves, once idle, with the ensembles that need it; PinRefused if pinned.

        ``even_pinned``: one that is pinned goes too, and comes back.
        """
        self._known(model)
        resident = self._residents.get(model)
        self._restore.pop(model, None)
        if resident is None:
            return []
        unit = self._unit(model)
        pinned = [name for name in unit if name in self._pinned]
        if pinned and not even_pinned:
            raise PinRefused(
                model, f"{pinned[0]} is pinned. 'tritonfleet unpin {pinned[0]}' first."
            )
        for name in unit:
            self._residents[name].told_to_leave = True
        decision = Decision(now, model, resident.server, tuple(unit), "unloaded on request")
        self.decisions.append(decision)
        return self._settle(now)

    def forgive(self, model: str) -> None:
        """Forgets that loads of a model failed: somebody asks for it explicitly."""
        for name in (model, *self._known(model).requires):
            self._failures.pop(name, None)

    # -- events: what the fleet consists of ----------------------------------------------------

    def declare(self, facts: ModelFacts, now: float) -> list[Action]:
        """One more entry, such as a further version of a model; or what is known of it anew."""
        self._models[facts.name] = facts
        self._footprints.setdefault(facts.name, facts.footprint)
        self._retired.discard(facts.name)
        self._reckon()
        return self._settle(now)

    def retire(self, model: str, now: float) -> list[Action]:
        """An entry leaves memory and then the fleet, with those that need it; PinRefused."""
        if model not in self._models:
            return []
        actions = self.unload(model, now)
        self._followers.discard(model)
        for name in (*self._dependents(model), model):
            self._retired.add(name)
            actions += self._reject_waiters(name, ModelNotFound(name, self.names))
        return actions + self._settle(now)

    def follow(self, model: str, now: float) -> list[Action]:
        """The entry is loaded whenever what it requires is there and room is to spare."""
        self._known(model)
        self._followers.add(model)
        return self._settle(now)

    def unfollow(self, model: str, now: float) -> list[Action]:
        """The entry is loaded only for somebody again."""
        self._followers.discard(model)
        return self._settle(now)

    def exchanged(self, entry: str, former: str, now: float) -> list[Action]:
        """A further version of a model takes its place, and what was there becomes ``former``.

        Both must be proved. What holds one of them goes on holding the same memory; whoever waits
        for the model waits for the new one.
        """
        model = self._models[entry].version_of
        old, new = self._residents.pop(model), self._residents.pop(entry)
        old.model, new.model = former, model
        old.published, new.published = new.published, old.published
        self._residents |= {model: new, former: old}
        self._tickets |= dict.fromkeys(old.leases, former) | dict.fromkeys(new.leases, model)
        for waiter in self._waiting_for(entry):
            waiter.model = model
        self._footprints[former] = self._footprints[model]
        self._footprints[model] = self._footprints.pop(entry)
        facts = self._models.pop(entry)
        self._models[former] = replace(facts, name=former, footprint=old.footprint)
        self._followers.discard(entry)
        self._failures.pop(entry, None)
        self._reckon()
        return self._settle(now)

    def _reckon(self) -> None:
        self._families = _families(self._models)
        self._dependents_of = _dependents(self._models)
        self._versions_of = _versions(self._models)

    # -- questions ---------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Every model of the fleet; further versions of one are no models of their own."""
        return tuple(name for name, facts in self._models.items() if not facts.version_of)

    def versions_of(self, model: str) -> tuple[str, ...]:
        """The entries that are further versions of a model, in memory or not."""
        return self._versions_of.get(model, ())

    @property
    def has_versions(self) -> bool:
        """Whether any model has further versions."""
        return bool(self._versions_of)

    def knows(self, entry: str) -> bool:
        """Whether this is a model of the fleet, or a further version of one."""
        return entry in self._models and entry not in self._retired

    @property
    def servers(self) -> tuple[ServerFacts, ...]:
        """Every server of the fleet, up or down."""
        return tuple(self._servers.values())

    def facts(self, model: str) -> ModelFacts:
        """What is known of a model; ModelNotFound for a foreign name."""
        return self._known(model)

    def priority(self, model: str) -> int:
        """Who is evicted last; 1 is the most important."""
        return self._known(model).priority

    def members(self, model: str) -> tuple[str, ...]:
        """The models that an ensemble runs through; empty for any other."""
        return self._models[model].requires

    def leaves_with(self, model: str) -> tuple[str, ...]:
        """What an unload of a model would take out of memory; ModelNotFound for a foreign name."""
        self._known(model)
        return tuple(name for name in self._unit(model) if name in self._residents)

    def ready_on(self, model: str) -> str | None:
        """The server where a model is READY, if any."""
        resident = self._residents.get(model)
        return resident.server if resident and resident.phase is Phase.READY else None

    def phase(self, model: str) -> Phase | None:
        """Where a model stands; None when it is on no server."""
        resident = self._residents.get(model)
        return resident.phase if resident else None

    def is_proved(self, model: str) -> bool:
        """Whether a model is READY and has shown since its load that it answers."""
        resident = self._residents.get(model)
        return resident is not None and resident.phase is Phase.READY and resident.proved

    def is_awaited(self, model: str) -> bool:
        """Whether somebody will use a model, or an ensemble over it, as soon as it is READY."""
        using = (model, *self._dependents(model))
        return any(waiter.holds and waiter.model in using for waiter in self._waiters.values())

    @property
    def pinned(self) -> frozenset[str]:
        """The pinned models."""
        return frozenset(self._pinned)

    def is_pinned(self, model: str) -> bool:
        """Whether a model is pinned."""
        return model in self._pinned

    def failure(self, model: str, now: float) -> LoadFailed | None:
        """Why the last load failed, while the back-off lasts."""
        failing = self._failing(model, now)
        return self._load_failed_error(model, now) if failing else None

    def footprint(self, model: str) -> int:
        """Bytes the model takes when loaded, as far as is known."""
        return self._footprints[model]

    def promised(self, server: str) -> int:
        """Bytes that planning counts on a server."""
        return self._sum(server, PROMISED)

    def occupied(self, server: str) -> int:
        """Bytes that a server's memory holds."""
        return self._sum(server, OCCUPIED)

    def waiting(self, model: str) -> int:
        """How many callers wait for a model."""
        return len(self._waiting_for(model))

    def awaited(self) -> Counter[str]:
        """How many callers wait, by model; models that nobody waits for are absent."""
        return Counter(waiter.model for waiter in self._waiters.values())

    def residents(self, now: float) -> tuple[ResidentView, ...]:
        """Every model on a server, with what keeps it there."""
        return tuple(self._resident_view(resident, now) for resident in self._residents.values())

    def next_wakeup(self, now: float) -> float | None:
        """When ``expire`` should next be called if nothing else happens; None for never."""
        times = [w.deadline for w in self._waiters.values()]
        times += [w.impatient_at for w in self._waiters.values()]
        times += self._next_looks()
        times += [failure.retry_at for failure in self._failures.values()]
        short = any(self._short_of_head_room(server) for server in self._servers.values())
        if self._waiters or self._pinned or self._restore or short:
            times += [self._young_until(r) for r in self._residents.values()]
            times += [self._stateful_until(r) for r in self._residents.values()]
        return min((at for at in times if at > now), default=None)

    # -- from state to actions ---------------------------------------------------------------

    def _settle(self, now: float) -> list[Action]:
        """Everything the present state calls for, in the order it must happen."""
        for server in self._servers.values():
            self._shrink(server, now)
        self._drop_unwanted_reservations()
        actions = list(self._refuse_impossible())
        # Before placing: an impatient caller must not drain what has just been loaded for others.
        actions += self._grants(now)
        actions += self._proofs()
        self._dismiss(now)
        self._place_all(now)
        for server in self._servers.values():
            self._make_head_room(server, now)
        actions += self._withdrawals()
        actions += self._publications()
        actions += self._departures()
        actions += self._loads(now)
        actions += self._looks()
        self._bury_retired()
        return actions

    def _place_all(self, now: float) -> None:
        for want in self._wants(now):
            if want.model in self._residents or self._failing(want.model, now):
                continue
            placed = self._place(want, now)
            # Nobody overtakes a caller past its patience, or a large model could starve.
            if not placed and want.demanded and now >= want.impatient_at:
                break

    def _wants(self, now: float) -> list[_Want]:
        """Demand by class, priority and age, then pins, then what may be there."""
        wants = self._demands(now)
        for model in self._pinned - wants.keys():
            wants[model] = _Want(2, float(self._models[model].priority), 0.0, model, math.inf)
        for model in self._restore.keys() - wants.keys():
            wants[model] = _Want(3, -self._restore[model], 0.0, model, math.inf)
        for model in self._followers - wants.keys():
            if all(self.is_proved(member) for member in self.members(model)):
                wants[model] = _Want(3, 0.0, 0.0, model, math.inf)
        return sorted(wants.values())

    def _demands(self, now: float) -> dict[str, _Want]:
        demands: dict[str, _Want] = {}
        for waiter in self._waiters.values():
            urgency = self._models[waiter.model].priority - (now - waiter.since) / AGING_S
            want = _Want(
                int(waiter.gives_way(now)), urgency, waiter.since, waiter.model, waiter.impatient_at
            )
            demands[waiter.model] = min(want, demands.get(waiter.model, want))
        return demands

    def _place(self, want: _Want, now: float) -> bool:
        """Reserves room for a model and its members; False when there is none to be made now."""
        parts = (*self.members(want.model), want.model)
        if any(map(self._is_leaving, parts)) or not self._servers_for(want.model):
            return False
        wanted = Wanted(
            want.model,
            tuple((part, self._footprints[part]) for part in parts),
            self._models[want.model].priority,
        )
        plan = self._plan(wanted, want, now)
        if plan is None or not (want.may_evict or self._is_spare(wanted, plan)):
            if not want.demanded:
                self._restore.pop(want.model, None)
            return False
        self._commit(wanted, plan, now)
        return True

    def _plan(self, wanted: Wanted, want: _Want, now: float) -> Plan | None:
        """Where a model goes; None as well while others may have to leave on old news."""
        plan = self._policy.plan(wanted, self._views(wanted, now, busy=False))
        if plan is not None and not plan.evict:
            return plan
        if not want.may_evict or self._must_look(self._servers_for(wanted.model), now):
            return None
        if plan is None and now >= want.impatient_at:
            return self._policy.plan(wanted, self._views(wanted, now, busy=True))
        return plan

    def _must_look(self, servers: Iterable[str], now: float) -> bool:
        """Whether news of a server is too old to evict by; a look is called for then."""
        old = [s for s in servers if now - self._looked.get(s, -math.inf) > self._fresh_s]
        self._to_look.update(old)
        return bool(old)

    def _looks(self) -> Iterator[Action]:
        servers = tuple(sorted(self._to_look - self._looking - self._down))
        self._to_look.clear()
        if servers:
            self._looking.update(servers)
            yield Look(servers)

    def _next_looks(self) -> list[float]:
        """When to look again at servers that callers wait for, because they were in use."""
        if all(waiter.model in self._residents for waiter in self._waiters.values()):
            return []
        in_use = {r.server for r in self._residents.values() if r.in_flight}
        return [self._looked[name] + LOOK_AGAIN_S for name in in_use & self._looked.keys()]

    def _withdrawals(self) -> list[Action]:
        lost, self._lost = self._lost, []
        return list(lost)

    def _publications(self) -> Iterator[Action]:
        for resident in self._residents.values():
            if not resident.published and self.is_proved(resident.model):
                resident.published = True
                yield Publish(resident.model, resident.server)

    def _bury_retired(self) -> None:
        """Forgets the entries that have left the fleet, once they have left memory."""
        for model in self._retired - self._residents.keys():
            self._retired.discard(model)
            for known in (self._models, self._footprints, self._failures, self._restore):
                known.pop(model, None)
            self._reckon()

    def _commit(self, wanted: Wanted, plan: Plan, now: float) -> None:
        kept = self._kept(plan, now)
        for part, footprint in wanted.parts:
            if part not in self._residents:
                self._residents[part] = _Resident(part, plan.server, footprint, now, last_used=now)
        self._leave(plan.evict, now)
        reason = "room was free"
        if plan.evict:
            size = sum(self._residents[name].footprint for name in plan.evict)
            reason = f"idle longest for its priority; frees {format_bytes(size)}"
        self._decide(now, wanted.model, plan.server, plan.evict, reason, kept)

    def _grants(self, now: float) -> Iterator[Action]:
        # Sorting is stable: within a class, first come, first served.
        for waiter in sorted(self._waiters.values(), key=lambda waiter: waiter.gives_way(now)):
            resident = self._residents.get(waiter.model)
            if resident is None or resident.phase is not Phase.READY:
                continue
            limit = self._models[waiter.model].max_concurrency
            if waiter.holds and limit is not None and len(resident.leases) >= limit:
                continue
            del self._waiters[waiter.ticket]
            if waiter.holds:
                resident.leases.add(waiter.ticket)
                self._tickets[waiter.ticket] = waiter.model
            self._touch(waiter.model, now)
            yield Grant(waiter.ticket, waiter.model, resident.server, now - waiter.since)

    def _proofs(self) -> Iterator[Action]:
        """Unproven models that nobody uses: whoever asked for them left or was refused."""
        for resident in self._residents.values():
            if (
                resident.phase is Phase.READY
                and not (resident.proved or resident.proof_ordered or self._in_use(resident))
                and all(self.is_proved(name) for name in self._unit(resident.model)[:-1])
            ):
                resident.proof_ordered = True
                yield Prove(resident.model, resident.server)

    def _dismiss(self, now: float) -> None:
        """Sends off what was told to leave, with its ensembles, as soon as it is proved."""
        told = [r for r in self._residents.values() if r.told_to_leave and r.phase is Phase.READY]
        for model in dict.fromkeys(name for r in told for name in self._unit(r.model)):
            self._residents[model].told_to_leave = True
            self._leave([model] if self.is_proved(model) else [], now)

    def _departures(self) -> Iterator[Action]:
        for resident in self._residents.values():
            ready = not resident.leases and not any(
                name in self._residents for name in self._dependents(resident.model)
            )
            if resident.phase is Phase.DRAINING and ready and not resident.drain_ordered:
                resident.drain_ordered = True
                yield Drain(resident.model, resident.server)

    def _loads(self, now: float) -> Iterator[Action]:
        for resident in self._residents.values():
            if resident.phase is not Phase.RESERVED or resident.server in self._down:
                continue
            server = self._servers[resident.server]
            members = self.members(resident.model)
            if (
                all(self.phase(member) is Phase.READY for member in members)
                and self._loading(server.name) < server.concurrent_loads
                and self.occupied(server.name) + resident.footprint <= server.capacity
            ):
                resident.phase, resident.since = Phase.LOADING, now
                yield Load(resident.model, resident.server)

    def _shrink(self, server: ServerFacts, now: float) -> None:
        """Makes up for footprints that turned out larger than promised."""
        if self.promised(server.name) <= server.capacity:
            return
        for resident in reversed(list(self._residents.values())):
            if resident.server == server.name and resident.phase is Phase.RESERVED:
                del self._residents[resident.model]
                if self.promised(server.name) <= server.capacity:
                    return
        if self._must_look([server.name], now):
            return
        view = self._view(server, _NOBODY, now, busy=False, young=True)
        plan = self._policy.plan(_NOBODY, [view])
        if plan is not None and plan.evict:
            self._leave(plan.evict, now)
            reason = "a model turned out larger than was known; the budget holds"
            self._decide(now, "", server.name, plan.evict, reason)

    def _make_head_room(self, server: ServerFacts, now: float) -> None:
        """Evicts ahead of need what has been idle longest, but never what was loaded last."""
        if not self._short_of_head_room(server) or self._room_is_awaited(server):
            return
        plan = self._policy.plan(_NOBODY, [self._view_ahead(server, now)])
        if plan is not None and plan.evict and not self._must_look([server.name], now):
            kept = self._kept(plan, now)
            self._leave(plan.evict, now)
            reason = f"idle longest; keeps {format_bytes(server.head_room)} free for the next load"
            self._decide(now, "", server.name, plan.evict, reason, kept)

    def _view_ahead(self, server: ServerFacts, now: float) -> ServerView:
        """The server as if its head-room were somebody's, and what was loaded last in use."""
        ready = [r for r in self._residents.values() if r.phase is Phase.READY]
        newest = max((r.since for r in ready if r.server == server.name), default=now)
        view = self._view(server, _NOBODY, now, busy=False, young=False)
        holdings = (
            replace(one, evictable=one.evictable and self._residents[one.model].since < newest)
            for one in view.holdings
        )
        return replace(view, capacity=server.capacity - server.head_room, holdings=tuple(holdings))

    def _short_of_head_room(self, server: ServerFacts) -> bool:
        return self._free(server) < server.head_room

    def _room_is_awaited(self, server: ServerFacts) -> bool:
        """Whether callers wait for room: what leaves now must leave for them."""
        return any(waiter.model not in self._residents for waiter in self._waiters.values()) or any(
            r.server == server.name and r.phase is Phase.RESERVED for r in self._residents.values()
        )

    def _is_spare(self, wanted: Wanted, plan: Plan) -> bool:
        """Whether a model that nobody asks for fits without an eviction, now or for head-room."""
        server = self._servers[plan.server]
        need = sum(size for part, size in wanted.parts if part not in self._residents)
        return not plan.evict and need <= self._free(server) - server.head_room

    def _refuse_impossible(self) -> Iterator[Action]:
        """Turns away whoever waits for a model that has been measured too large."""
        for model in dict.fromkeys(waiter.model for waiter in self._waiters.values()):
            error = self._too_large(model)
            if error is not None and self.phase(model) is not Phase.READY:
                yield from self._reject_waiters(model, error)

    def _drop_unwanted_reservations(self) -> None:
        """Gives up room whose callers have all left, or whose ensemble lost a member."""
        reserved = [r.model for r in self._residents.values() if r.phase is Phase.RESERVED]
        if not reserved:
            return
        wanted = {waiter.model for waiter in self._waiters.values()}
        wanted |= self._pinned | self._restore.keys() | self._followers
        # Ensembles first: their members are wanted only as long as they are.
        for model in sorted(reserved, key=lambda name: -len(self.members(name))):
            needed = any(self._is_promised(name) for name in self._dependents(model))
            complete = all(self._is_promised(name) for name in self.members(model))
            if not complete or not (needed or model in wanted):
                del self._residents[model]

    # -- what the policy sees ------------------------------------------------------------------

    def _views(self, wanted: Wanted, now: float, *, busy: bool) -> list[ServerView]:
        return [
            self._view(self._servers[name], wanted, now, busy=busy, young=False)
            for name in self._servers_for(wanted.model)
        ]

    def _servers_for(self, model: str) -> list[str]:
        """Servers a model may go to: where its family is, or any that is up."""
        homes = {r.server for r in self._residents.values() if r.model in self._families[model]}
        return [name for name in (homes or self._servers) if name not in self._down]

    def _view(
        self, server: ServerFacts, wanted: Wanted, now: float, *, busy: bool, young: bool
    ) -> ServerView:
        holdings = tuple(
            Holding(
                resident.model,
                resident.footprint,
                resident.last_used,
                self._models[resident.model].priority,
                self._evictable(resident, wanted, now, busy=busy, young=young),
                tuple(name for name in self._dependents(resident.model) if self._is_promised(name)),
            )
            for resident in self._residents.values()
            if resident.server == server.name and resident.phase in PROMISED
        )
        return ServerView(server.name, server.capacity, holdings, now)

    def _evictable(
        self, resident: _Resident, wanted: Wanted, now: float, *, busy: bool, young: bool
    ) -> bool:
        if not self.is_proved(resident.model) or self._pinned_by(resident.model):
            return False
        priority = self._models[resident.model].priority
        waived = young or wanted.priority < priority
        if self._young_until(resident) > now and not waived:
            return False
        if self._stateful_until(resident) > now:
            return False
        if self._in_use(resident):
            return busy and priority >= wanted.priority and not self._coming(resident.model)
        return True

    def _hold(self, resident: _Resident, now: float) -> str | None:
        """Why a READY model is not evictable, in words; None when it is."""
        pinned = self._pinned_by(resident.model)
        if pinned:
            return "pinned" if pinned == resident.model else f"needed by {pinned}, which is pinned"
        if resident.leases:
            return f"in use by {len(resident.leases)}"
        if resident.in_flight:
            return f"{resident.in_flight} requests under way"
        users = [d for d in self._dependents(resident.model) if d in self._residents]
        busy = next((d for d in users if self._in_use(self._residents[d])), None)
        if busy:
            return f"needed by {busy}, which is in use"
        if not resident.proved:
            return "has yet to show that it answers"
        left = self._stateful_until(resident) - now
        if left > 0:
            return f"may hold the state of a sequence, stays {left:.1f} s longer"
        left = self._young_until(resident) - now
        return f"loaded just now, stays {left:.1f} s longer" if left > 0 else None

    def _resident_view(self, resident: _Resident, now: float) -> ResidentView:
        return ResidentView(
            model=resident.model,
            server=resident.server,
            phase=resident.phase,
            footprint=resident.footprint,
            last_used=resident.last_used,
            since=resident.since,
            leases=len(resident.leases),
            in_flight=resident.in_flight,
            stays_because=self._hold(resident, now) if resident.phase is Phase.READY else None,
        )

    def _kept(self, plan: Plan, now: float) -> tuple[tuple[str, str], ...]:
        if not plan.evict:
            return ()
        return tuple(
            (r.model, self._hold(r, now) or "used more recently, for its priority")
            for r in self._residents.values()
            if r.server == plan.server and r.phase is Phase.READY and r.model not in plan.evict
        )

    # -- small facts ---------------------------------------------------------------------------

    def _refusal(self, model: str, now: float, holds: bool) -> FleetError | None:
        if model not in self._models or model in self._retired:
            return ModelNotFound(model, self.names)
        too_large = self._too_large(model)
        if too_large is not None and self.phase(model) is not Phase.READY:
            return too_large
        failure = self.failure(model, now)
        if failure is not None and self.phase(model) is None:
            return failure
        limit = self._models[model].queue_limit
        if (
            holds
            and limit is not None
            and self._would_queue(model)
            and self.waiting(model) >= limit
        ):
            return QueueFull(model, f"{limit} requests wait for it already")
        return None

    def _would_queue(self, model: str) -> bool:
        resident, limit = self._residents.get(model), self._models[model].max_concurrency
        if resident is None or resident.phase is not Phase.READY:
            return True
        return limit is not None and len(resident.leases) >= limit

    def _too_late(self, waiter: _Waiter, now: float) -> FleetError:
        waited, phase = now - waiter.since, self.phase(waiter.model)
        failure = self.failure(waiter.model, now)
        if failure is not None and phase is None:
            return failure
        if phase in (Phase.RESERVED, Phase.LOADING):
            return FleetSaturated(waiter.model, waited, 1.0, "it is still being loaded")
        if phase is Phase.READY:
            return FleetSaturated(waiter.model, waited, 1.0, "its max_concurrency is in use")
        if len(self._down) == len(self._servers):
            return FleetSaturated(waiter.model, waited, 5.0, "its server is restarting")
        return FleetSaturated(waiter.model, waited, self._retry_after(now))

    def _retry_after(self, now: float) -> float:
        """Until the first resident's minimum residency ends; at least a second."""
        ends = [self._young_until(r) - now for r in self._residents.values()]
        return max(1.0, min((left for left in ends if left > 0), default=1.0))

    def _too_large(self, model: str) -> ModelTooLarge | None:
        own = self._closure({model})
        pinned = self._closure(self._pinned) - own
        need = sum(self._footprints[name] for name in own)
        largest = max(
            server.capacity - self._pinned_bytes(server.name, pinned)
            for server in self._servers.values()
        )
        return ModelTooLarge(model, need, largest) if need > largest else None

    def _pinned_bytes(self, server: str, pinned: set[str]) -> int:
        return sum(
            r.footprint
            for r in self._residents.values()
            if r.server == server and r.model in pinned
        )

    def _leave(self, models: Iterable[str], now: float) -> None:
        for model in models:
            resident = self._residents[model]
            if resident.phase is Phase.READY:
                resident.phase, resident.since = Phase.DRAINING, now
                resident.drain_ordered = False

    def _note_proof(self, resident: _Resident) -> None:
        resident.proved = True
        self._failures.pop(resident.model, None)

    def _on_trial(self, resident: _Resident) -> bool:
        """Whether it is being loaded, or loaded and has not answered anybody yet."""
        if resident.phase is Phase.READY:
            return not resident.proved
        return resident.phase is Phase.LOADING

    def _forget(self, resident: _Resident) -> None:
        for ticket in resident.leases:
            self._tickets.pop(ticket, None)
        if resident.published:
            self._lost.append(Withdraw(resident.model, resident.server))
        self._residents.pop(resident.model, None)

    def _touch(self, model: str, now: float) -> None:
        """A use of an ensemble is a use of its members."""
        for name in (model, *self.members(model)):
            if name in self._residents:
                self._residents[name].last_used = max(now, self._residents[name].last_used)

    def _reject_waiters(self, model: str, error: FleetError) -> list[Action]:
        tickets = [waiter.ticket for waiter in self._waiting_for(model)]
        for ticket in tickets:
            del self._waiters[ticket]
        return [Reject(ticket, error) for ticket in tickets]

    def _load_failed_error(self, model: str, now: float) -> LoadFailed:
        culprit = self._failing(model, now) or model
        failure = self._failures[culprit]
        reason = failure.reason if culprit == model else f"its member {culprit}: {failure.reason}"
        return LoadFailed(model, reason, max(0.0, failure.retry_at - now))

    def _failing(self, model: str, now: float) -> str | None:
        """The model, or the member of it, that is in back-off after a failed load."""
        for name in (model, *self.members(model)):
            if name in self._failures and self._failures[name].retry_at > now:
                return name
        return None

    def _known(self, model: str) -> ModelFacts:
        if model not in self._models:
            raise ModelNotFound(model, self.names)
        return self._models[model]

    def _closure(self, models: Iterable[str]) -> set[str]:
        return {part for model in models for part in (model, *self._models[model].requires)}

    def _dependents(self, model: str) -> tuple[str, ...]:
        return self._dependents_of[model]

    def _unit(self, model: str) -> list[str]:
        """What leaves with a model: the ensembles that need it, then itself."""
        dependents = [name for name in self._dependents(model) if name in self._residents]
        return [*dependents, model]

    def _in_use(self, resident: _Resident) -> bool:
        return bool(
            resident.leases
            or self._waiting_for(resident.model)
            or self._coming(resident.model)
            or any(self._is_busy(self._residents[name]) for name in self._unit(resident.model))
        )

    def _is_busy(self, resident: _Resident) -> bool:
        return bool(resident.leases or resident.in_flight)

    def _coming(self, model: str) -> bool:
        """Whether an ensemble that needs the model is about to load."""
        early = (Phase.RESERVED, Phase.LOADING)
        return any(self.phase(name) in early for name in self._dependents(model))

    def _pinned_by(self, model: str) -> str | None:
        """The model itself or an ensemble that needs it, whichever is pinned."""
        return next((n for n in (model, *self._dependents(model)) if n in self._pinned), None)

    def _young_until(self, resident: _Resident) -> float:
        if resident.phase is not Phase.READY:
            return 0.0
        return resident.since + min(self._min_residency_s, RESIDENCY_PER_LOAD * resident.load_s)

    def _stateful_until(self, resident: _Resident) -> float:
        idle_s = self._models[resident.model].state_idle_s
        return resident.last_used + idle_s if idle_s and resident.phase is Phase.READY else 0.0

    def _waiting_for(self, model: str) -> list[_Waiter]:
        return [waiter for waiter in self._waiters.values() if waiter.model == model]

    def _is_leaving(self, model: str) -> bool:
        return self.phase(model) in LEAVING

    def _is_promised(self, model: str) -> bool:
        return self.phase(model) in PROMISED

    def _loading(self, server: str) -> int:
        return sum(
            1 for r in self._residents.values() if r.server == server and r.phase is Phase.LOADING
        )

    def _free(self, server: ServerFacts) -> int:
        """Bytes that nobody has been promised."""
        return server.capacity - self.promised(server.name)

    def _sum(self, server: str, phases: frozenset[Phase]) -> int:
        return sum(
            r.footprint
            for r in self._residents.values()
            if r.server == server and r.phase in phases
        )

    def _decide(
        self,
        now: float,
        model: str,
        server: str,
        evicted: tuple[str, ...],
        reason: str,
        kept: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.evictions.update(self._models[name].version_of or name for name in evicted)
        self.decisions.append(Decision(now, model, server, evicted, reason, kept))


def _dependents(models: Mapping[str, ModelFacts]) -> dict[str, tuple[str, ...]]:
    """For each model the ensembles that need it."""
    found: dict[str, list[str]] = {name: [] for name in models}
    for name, facts in models.items():
        for part in facts.requires:
            found[part].append(name)
    return {name: tuple(dependents) for name, dependents in found.items()}


def _versions(models: Mapping[str, ModelFacts]) -> dict[str, tuple[str, ...]]:
    """For each model that has further versions, these."""
    found: dict[str, tuple[str, ...]] = {}
    for name, facts in models.items():
        if facts.version_of:
            found[facts.version_of] = (*found.get(facts.version_of, ()), name)
    return found


def _families(models: Mapping[str, ModelFacts]) -> dict[str, frozenset[str]]:
    """For each model all that are joined to it by ensembles, and so must share its server."""
    family = {name: {name} for name in models}
    for name, facts in models.items():
        joined = set[str]().union(*(family[part] for part in (name, *facts.requires)))
        for part in joined:
            family[part] = joined
    return {name: frozenset(members) for name, members in family.items()}
