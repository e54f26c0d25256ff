from __future__ import annotations

import itertools

import pytest

from fleet_perf.gateway import cold
from fleet_perf.gateway.calls import Outcome
from fleet_perf.gateway.cold import ByHand, ColdFailed, Gateway, _Measuring
from fleet_perf.gateway.crowd import LARGE
from tests.fleet_perf.gateway.builders import cold_cell, cold_findings
from tritonfleet.errors import Unstable

NAMES, ROOM = LARGE.names, LARGE.job.room


class Client:
    """Answers every model the same."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome, self.asked = outcome, []

    async def ask(self, model):
        self.asked.append(model)
        return self.outcome


class Server:
    """Notes what it is told, and takes neither what it has nor more than fits."""

    def __init__(self) -> None:
        self.loaded, self.calls = set(), []

    async def load(self, model, _timeout_s):
        assert model not in self.loaded
        assert len(self.loaded) < ROOM
        self.loaded.add(model)
        self.calls.append(f"load {model}")

    async def unload(self, model):
        self.loaded.discard(model)
        self.calls.append(f"unload {model}")

    async def until_unloaded(self, model):
        self.calls.append(f"gone {model}")


class Fleet:
    """The control API's verbs, as far as they are used."""

    def __init__(self) -> None:
        self.fleet, self.unloaded = self, []

    async def act(self, verb, model):
        assert verb == "unload"
        self.unloaded.append(model)


def sides(outcome=None):
    fleet, server = Fleet(), Server()
    gateway = Gateway(fleet, Client(outcome or Outcome(cold=True)))
    return gateway, ByHand(server, Client(Outcome())), fleet, server


def measuring(pairs):
    return _Measuring(None, None, LARGE, pairs, lambda _: None)


async def test_by_hand_is_an_unload_a_wait_a_load_and_a_request():
    _, by_hand, _, server = sides()
    server.loaded.add("old")
    assert await by_hand.start("new", "old") > 0
    assert server.calls == ["unload old", "gone old", "load new"]


async def test_what_the_gateway_says_of_its_wait_is_kept():
    gateway, *_ = sides(Outcome(cold=True, wait_ms=20.0))
    await gateway.start("a", None)
    assert gateway.held_s == [0.02]


async def test_a_model_that_was_in_memory_is_no_cold_start():
    gateway, *_ = sides(Outcome(cold=False))
    with pytest.raises(Unstable, match="it was in memory"):
        await gateway.start("a", None)


async def test_an_error_is_told_and_not_timed():
    gateway, *_ = sides(Outcome("503 no room"))
    with pytest.raises(ColdFailed, match="a, gateway: 503 no room"):
        await gateway.start("a", None)


async def test_with_room_each_model_leaves_before_the_next_comes():
    gateway, by_hand, fleet, server = sides()
    found = await measuring(3)._with_room((gateway, by_hand))
    assert found.gateway.count == found.bare.count == 3  # the first pair does not count
    assert fleet.unloaded == list(NAMES[:4])
    assert not server.loaded


async def test_without_room_the_one_longest_there_leaves():
    gateway, by_hand, fleet, server = sides()
    pairs = 2 * len(NAMES)
    found = await measuring(pairs)._evicting((gateway, by_hand))
    assert found.bare.count == pairs
    assert fleet.unloaded == []  # who leaves is up to the fleet
    assert len(server.loaded) == ROOM
    asked = list(itertools.islice(itertools.cycle(NAMES), ROOM + pairs + 1))
    assert gateway._client.asked == by_hand._client.asked == asked


async def test_who_goes_first_changes_with_each_pair():
    times = cold._Times()
    one, other, *_ = sides()
    assert [times.turn((one, other))[0] for _ in range(4)] == [one, other, one, other]


def test_only_large_models_with_room_are_promised():
    found = cold_findings(
        cold_cell([0.011], [0.010]),
        cold_cell([0.030], [0.010], evicting=True),
        cold_cell([0.030], [0.010], crowd="tiny"),
    )
    assert [(target.found, target.kept) for target in found.targets] == [(pytest.approx(1.1), True)]
    assert not cold_findings(cold_cell([0.012], [0.010])).targets[0].kept
