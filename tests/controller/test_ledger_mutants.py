"""Proof that the world of the property tests sees what it is there to see.

Each mutant breaks one rule of the ledger on purpose; random traces must catch every one of them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.controller.fleet import World
from tests.controller.test_ledger_properties import play, settle
from tritonfleet.controller.ledger import (
    Ledger,
    ModelFacts,
    Phase,
    Publish,
    ServerFacts,
)
from tritonfleet.controller.policy import PriorityLRU, Wanted


class Faithful(Ledger):
    """No mutation: the control of the experiment."""


class ForgetsUnloading(Ledger):
    """Counts memory as free as soon as Triton has answered the unload."""

    def occupied(self, server):
        return self._sum(server, {Phase.LOADING, Phase.READY, Phase.DRAINING})


class PlansAgainstOccupied(Ledger):
    """Promises the same room twice: reservations do not count."""

    def _view(self, server, wanted, now, *, busy, young):
        view = super()._view(server, wanted, now, busy=busy, young=young)
        kept = tuple(h for h in view.holdings if self.phase(h.model) is not Phase.RESERVED)
        return type(view)(view.name, view.capacity, kept, now)


class DrainsUnderLease(Ledger):
    """Does not wait for requests in flight."""

    def _departures(self):
        for resident in self._residents.values():
            resident.leases.clear()
        yield from super()._departures()


class EvictsPinned(Ledger):
    """Takes pins for a suggestion."""

    def _pinned_by(self, model):
        return None


class ForgetsLeavers(Ledger):
    """Keeps the lease of a caller who left."""

    def cancel(self, ticket, now):
        if self._waiters.pop(ticket, None) is None:
            return []
        return self._settle(now)


class LosesWaiters(Ledger):
    """Forgets who waits when a load fails."""

    def _reject_waiters(self, model, error):
        super()._reject_waiters(model, error)
        return []


class LoadsTwice(Ledger):
    """Starts a load for every caller instead of joining them."""

    def request(self, ticket, model, now, **options):
        if self.phase(model) is Phase.LOADING:
            self._residents[model].phase = Phase.RESERVED
        return super().request(ticket, model, now, **options)


class LeavesEnsemblesBehind(Ledger):
    """Unloads a member while an ensemble that needs it is still there."""

    def _dependents(self, model):
        return ()


class NeverImpatient(Ledger):
    """Waits for ever behind busy models, and never turns anybody away."""

    def expire(self, now):
        return []


class EvictsUnproven(Ledger):
    """Unloads on the heels of a load, before the model has answered anybody."""

    def is_proved(self, model):
        return self.phase(model) is Phase.READY


class TakesBusyForIdle(Ledger):
    """Does not count what takes no lease as a use."""

    def _is_busy(self, resident):
        return bool(resident.leases)


class UnloadsWhilePublished(Ledger):
    """Does not wait until the model's endpoint is away."""

    def _departures(self):
        for action in list(super()._departures()):
            yield from self.drained(action.model, self._residents[action.model].since)


class PublishesUnproven(Ledger):
    """Sends requests to a model that has not answered anybody yet."""

    def _publications(self):
        for resident in self._residents.values():
            if not resident.published and resident.phase is Phase.READY:
                resident.published = True
                yield Publish(resident.model, resident.server)


class ForgetsTheLost(Ledger):
    """Leaves the way to a model open when the model is gone."""

    def _withdrawals(self):
        return []


class LooksWithoutEnd(Ledger):
    """Orders a look although one is under way."""

    def _looks(self):
        self._looking.clear()
        return super()._looks()


class NeverProves(Ledger):
    """Leaves a model unproven for ever when its callers got no answer."""

    def _proofs(self):
        return []


class LoadsLate(Ledger):
    """Waits until every victim is gone, whether or not the newcomer fits beside it."""

    def _loads(self, now):
        if any(self._is_leaving(model) for model in self._residents):
            return []
        return list(super()._loads(now))


class HeadRoomFirst(Ledger):
    """Makes head-room while callers wait for room."""

    def _room_is_awaited(self, server):
        return False


class ThrashesForHeadRoom(Ledger):
    """Evicts for its head-room what it has just loaded."""

    def _view_ahead(self, server, now):
        view = self._view(server, Wanted("", (), 10), now, busy=False, young=True)
        return replace(view, capacity=server.capacity - server.head_room)


MUTANTS = [
    ForgetsUnloading, PlansAgainstOccupied, DrainsUnderLease, EvictsPinned, ForgetsLeavers,
    LosesWaiters, LoadsTwice, LeavesEnsemblesBehind, NeverImpatient, EvictsUnproven, NeverProves,
    LoadsLate, HeadRoomFirst, ThrashesForHeadRoom, TakesBusyForIdle, UnloadsWhilePublished,
    PublishesUnproven, ForgetsTheLost, LooksWithoutEnd,
]  # fmt: skip
MODELS = [
    ModelFacts("pinned", 2, 9),
    ModelFacts("encoder", 4, 3),
    ModelFacts("search", 0, 3, requires=("encoder",)),
    ModelFacts("bert", 3, 5, max_concurrency=2),
    ModelFacts("vit", 5, 5),
    ModelFacts("llm", 6, 7),
]


def restart(world):
    """In every fourth trace the server dies now and then."""
    if world.seed % 4 == 3:
        world.kill("gpu0")
        world.take(world.ledger.server_back("gpu0", world.now))


def caught(kind, seed):
    """Whether a trace of this seed shows something that must never happen."""
    book = kind(
        MODELS,
        [ServerFacts("gpu0", 10, head_room=2)],
        PriorityLRU(),
        patience_s=1.0,
        min_residency_s=0.5,
        fresh_s=0.05,
    )
    world = World(book, seed=seed, fail=0.3 if seed % 2 else 0.0)
    try:
        world.take(book.pin("pinned", 0.0))
        play(world, [model.name for model in MODELS], 120, restart)
        settle(world)
    except (AssertionError, KeyError, RecursionError):
        return True
    return bool(world.leases) or any(r.leases for r in book._residents.values())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda kind: kind.__name__)
def test_random_traces_catch_the_mutant(mutant):
    assert any(caught(mutant, seed) for seed in range(60)), mutant.__doc__


def test_random_traces_find_no_fault_in_the_ledger_itself():
    assert not any(caught(Faithful, seed) for seed in range(60))
