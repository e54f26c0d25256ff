"""Builders for ledger tests, and a world that carries actions out in simulated time.

The world is the other half of the contract: it does what a tritonserver does, late, out of order
and sometimes not at all, and checks after every event what must never happen.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable

from tritonfleet.controller.ledger import (
    Action,
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
    ServerFacts,
    Unload,
    Withdraw,
)
from tritonfleet.controller.policy import Holding, PriorityLRU, ServerView, Wanted


def model(name, footprint=0, *, priority=5, parts=()):
    return Wanted(name, ((name, footprint), *parts), priority)


def idle(name, footprint, *, used=0.0, priority=5, dependents=()):
    return Holding(name, footprint, used, priority, True, tuple(dependents))


def busy(name, footprint, *, used=0.0, priority=5):
    return Holding(name, footprint, used, priority, False)


def server(name, *, capacity, residents=(), now=100.0):
    return ServerView(name, capacity, tuple(residents), now)


def ledger(models, capacity=10, *, servers=None, policy=None, kind=Ledger, **options):
    """A ledger over ``{"name": footprint}`` or ModelFacts, with one server 'gpu0' by default.

    No news is too old for it, unless the test says otherwise.
    """
    facts = [
        entry if isinstance(entry, ModelFacts) else ModelFacts(*entry)
        for entry in (models.items() if isinstance(models, dict) else models)
    ]
    servers = servers or [ServerFacts("gpu0", capacity)]
    options = {"min_residency_s": 0.0, "fresh_s": math.inf, **options}
    return kind(facts, servers, policy or PriorityLRU(), **options)


class World:
    """Carries out actions at random later times, and watches the invariants."""

    def __init__(self, ledger, *, seed=0, fail=0.0, lose=0.0):
        self.ledger, self.random = ledger, random.Random(seed)
        self.seed, self.fail, self.lose, self.now = seed, fail, lose, 0.0
        self.pending: list[tuple[float, int, object]] = []
        self.memory: dict[str, str] = {}
        self.leaving: set[str] = set()
        self.unproven: set[str] = set()
        self.newest: dict[str, str] = {}
        self.seen: set[object] = set()
        self.leases: dict[int, str] = {}
        self.drains: set[str] = set()
        self.outcome: dict[int, str] = {}
        self.open: set[int] = set()
        self.onlookers: set[int] = set()
        self.loads = self.changes = 0
        self.published: dict[str, str] = {}
        self.direct: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.used: dict[str, float] = {}
        self.insistent = False
        self.explained = 0
        self.looking: set[str] = set()
        self._sequence = 0

    # -- doing -----------------------------------------------------------------------------

    def request(self, ticket, name, *, patience=30.0, holds=True, batch=False):
        self.open.add(ticket)
        if not holds:
            self.onlookers.add(ticket)
        deadline = self.now + patience
        self.take(
            self.ledger.request(ticket, name, self.now, deadline=deadline, holds=holds, batch=batch)
        )

    def exchange(self, entry, former):
        """A further version and its model change places: the same memory under other names."""
        model = self.ledger.facts(entry).version_of
        self.memory[former] = self.memory.pop(entry)
        names = {model: former, entry: model}
        self.leases = {ticket: names.get(name, name) for ticket, name in self.leases.items()}
        self.published[former] = self.published.pop(entry)
        self.take(self.ledger.exchanged(entry, former, self.now))

    def go_straight(self, name):
        """A request that takes no lease, where the model may be reached; it ends some time."""
        if name in self.published:
            self.direct[name] += 1
            self.later(_On(self.published[name], lambda: self._straight_done(name)))

    def _straight_done(self, name):
        self.direct[name] -= 1
        self.used[name] = self.now
        if self.insistent:
            self.go_straight(name)
        if not self.direct[name] and name in self.drains:
            self._drained(name)

    def leave(self, ticket):
        """The caller goes away, whether it waits or works; most who worked got their answer."""
        model = self.leases.get(ticket)
        if model is not None and self.random.random() < 0.7:
            self.unproven -= {model, *self.ledger._models[model].requires}
            self.take(self.ledger.answered(ticket, self.now))
        self.leases.pop(ticket, None)
        self.open.discard(ticket)
        self.take(self.ledger.cancel(ticket, self.now))

    def take(self, actions: Iterable[Action]):
        for action in actions:
            self._carry_out(action)
        self.check()

    def step(self):
        """The next thing that happens; False when nothing will."""
        wakeup = self.ledger.next_wakeup(self.now)
        if not self.pending and wakeup is None:
            return False
        self.pending.sort(key=lambda item: item[:2])
        if self.pending and (wakeup is None or self.pending[0][0] <= wakeup):
            at, _, event = self.pending.pop(0)
            self.now = max(self.now, at)
            event()
        else:
            self.now = wakeup
            self.take(self.ledger.expire(self.now))
        return True

    def run(self, steps=100_000):
        while steps and self.step():
            steps -= 1
        assert steps, "the fleet never comes to rest"

    def later(self, event, low=0.01, high=1.0):
        self._sequence += 1
        delay = self.random.uniform(low, high)
        self.pending.append((self.now + delay, self._sequence, event))

    def kill(self, server):
        """The server dies: what it held is gone, what it was doing never ends."""
        held = {name for name, where in self.memory.items() if where == server}
        for name in held:
            del self.memory[name]
        self.leaving -= held
        self.unproven -= held
        for name in held:
            self.direct.pop(name, None)
        self.drains -= held
        self.pending = [item for item in self.pending if getattr(item[2], "server", "") != server]
        for ticket in [t for t, name in self.leases.items() if name in held]:
            del self.leases[ticket]
        self.take(self.ledger.server_lost(server, self.now))

    # -- what a server does ------------------------------------------------------------------

    def _carry_out(self, action):
        if isinstance(action, Grant):
            self._grant(action)
        elif isinstance(action, Reject):
            self.outcome[action.ticket] = type(action.error).__name__
            self.open.discard(action.ticket)
        elif isinstance(action, Load):
            self._load(action)
        elif isinstance(action, Publish):
            self._publish(action)
        elif isinstance(action, Withdraw):
            self.published.pop(action.model, None)
        elif isinstance(action, Look):
            assert not self.looking & set(action.servers), "looked twice at once"
            self.looking |= set(action.servers)
            self.later(lambda: self._looked(action.servers, self.now))
        elif isinstance(action, Drain):
            self._may_leave(action.model)
            self.later(_On(action.server, lambda: self._withdrawn(action.model)))
        elif isinstance(action, Prove):
            assert action.model not in self.leases.values(), "proved what its caller proves"
            self.later(_On(action.server, lambda: self._proved(action.model)))
        elif isinstance(action, Unload):
            self._unload(action)

    def _grant(self, action):
        # DRAINING: granted, and at once told to make room when done.
        assert self.ledger.phase(action.model) in (Phase.READY, Phase.DRAINING)
        assert action.model in self.memory, "granted a model that is not in memory"
        assert action.ticket in self.open, "granted to somebody who is not there"
        self.outcome[action.ticket] = "served"
        self.open.discard(action.ticket)
        if action.ticket not in self.onlookers:
            self.leases[action.ticket] = action.model

    def _load(self, action):
        assert action.model not in self.memory, "loaded twice at once"
        for member in self.ledger._models[action.model].requires:
            assert self.memory.get(member) == action.server, "an ensemble before its member"
        self.loads += 1
        self.told.pop(action.model, None)
        self.memory[action.model] = action.server
        self.later(_On(action.server, lambda: self._loaded(action.model)))

    def _loaded(self, name):
        if name not in self.memory:
            return
        self.newest[self.memory[name]] = name
        if self.ledger.is_awaited(name):
            self.unproven.add(name)
            self.take(self.ledger.loaded(name, self.now, proved=False))
        elif self.random.random() < self.fail:
            self._fail(name)
        else:
            self.take(self.ledger.loaded(name, self.now))

    def _proved(self, name):
        if self.random.random() < self.fail and name in self.unproven:
            self._fail(name)
        else:
            self.unproven -= {name, *self.ledger._models[name].requires}
            self.take(self.ledger.proved(name, self.now))

    def _fail(self, name):
        """The model is taken out, and with it whatever cannot do without."""
        gone = {other for other in self.memory if name in self.ledger._models[other].requires}
        for one in {name, *gone} & self.memory.keys():
            del self.memory[one]
            self.unproven.discard(one)
        for ticket in [t for t, model in self.leases.items() if model in {name, *gone}]:
            del self.leases[ticket]
        self.take(self.ledger.load_failed(name, "broken", self.now))

    def _may_leave(self, name):
        assert name not in self.unproven, "told a model to leave that has not answered yet"

    def _publish(self, action):
        assert action.model in self.memory, "published what is not in memory"
        assert action.model not in self.unproven, "published before its proof"
        assert action.model not in self.published, "published twice"
        assert self.ledger.phase(action.model) is Phase.READY
        self.published[action.model] = action.server
        if self.insistent:
            self.go_straight(action.model)

    def _looked(self, servers, as_of):
        self.looking -= set(servers)
        self.told = Counter(self.direct)
        self.take(
            self.ledger.observed(
                dict(self.used),
                (),
                self.now,
                as_of=as_of,
                in_flight=dict(+self.direct),
                looked_at=servers,
            )
        )

    def _withdrawn(self, name):
        """New requests stay away; those under way come to their end."""
        self.published.pop(name, None)
        self.drains.add(name)
        if not self.direct[name]:
            self._drained(name)

    def _drained(self, name):
        self.drains.discard(name)
        assert name not in self.leases.values(), "drained under a lease"
        self.take(self.ledger.drained(name, self.now))

    def _unload(self, action):
        assert action.model not in self.leases.values(), "unloaded under a lease"
        assert action.model not in self.published, "unloaded while requests may go there"
        assert not self.direct[action.model], "unloaded under a request"
        assert not self.ledger.is_pinned(action.model), "unloaded a pinned model"
        self._may_leave(action.model)
        for name in self.memory:
            members = self.ledger._models[name].requires
            assert action.model not in members, "unloaded a member under its ensemble"
        self.leaving.add(action.model)
        self.later(_On(action.server, lambda: self._unloaded(action.model)))

    def _unloaded(self, name):
        self.memory.pop(name, None)
        self.leaving.discard(name)
        self.take(self.ledger.unloaded(name, self.now))

    # -- what must never happen --------------------------------------------------------------

    def check(self):
        for facts in self.ledger._servers.values():
            held = sum(
                self.ledger.footprint(name) for name, at in self.memory.items() if at == facts.name
            )
            assert held <= facts.capacity, "memory over capacity"
            assert self.ledger.occupied(facts.name) <= facts.capacity
            assert self.ledger.promised(facts.name) <= facts.capacity
            assert held <= self.ledger.occupied(facts.name), "memory the ledger does not know of"
        for name in self.leases.values():
            assert self.ledger.phase(name) in (Phase.READY, Phase.DRAINING)
        assert len(self.ledger._waiters) == len(self.open), "a caller was lost"
        for resident in self.ledger._residents.values():
            assert not self._could_load(resident), "a load that fits was put off"
        assert self.published.keys() <= self.memory.keys(), "a way to nowhere"
        self._check_head_room()
        self._check_reasons()

    def _could_load(self, resident):
        """Whether nothing stands between a reserved model and its load: see what is occupied."""
        book, facts = self.ledger, self.ledger._servers[resident.server]
        members = book._models[resident.model].requires
        loading = [r for r in book._residents.values() if r.phase is Phase.LOADING]
        return (
            resident.phase is Phase.RESERVED
            and facts.name not in book._down
            and all(book.phase(member) is Phase.READY for member in members)
            and sum(r.server == facts.name for r in loading) < facts.concurrent_loads
            and book.occupied(facts.name) + resident.footprint <= facts.capacity
        )

    def _check_head_room(self):
        for decision in self.ledger.decisions:
            if decision.model == "" and "free for the next load" in decision.reason:
                key = (decision.at, decision.evicted)
                if key not in self.seen:
                    self.seen.add(key)
                    assert self.newest.get(decision.server) not in decision.evicted, "thrash"
                    assert not self.open - self._placed(), "head-room before callers"

    def _check_reasons(self):
        """Whatever was in use when last seen leaves only for somebody who has lost patience."""
        decisions = list(self.ledger.decisions)
        for decision in decisions[self.explained :]:
            busy = [name for name in decision.evicted if self.told[name]]
            if busy and "request" not in decision.reason:
                waiters = self.ledger._waiters.values()
                assert any(w.impatient_at <= decision.at for w in waiters), "took busy for idle"
        self.explained = len(decisions)

    def _placed(self):
        waiters = self.ledger._waiters.values()
        return {w.ticket for w in waiters if self.ledger.phase(w.model) is not None}


class _On:
    """An event that happens on a server, and dies with it."""

    def __init__(self, server, event):
        self.server, self.event = server, event

    def __call__(self):
        self.event()
