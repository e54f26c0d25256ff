from __future__ import annotations

import pytest

from fleet_perf import promises
from fleet_perf.compare import compare_cold
from fleet_perf.promises import RoundsOrder, keep_promises, kind_figures, pooled, warm_pairs
from fleet_perf.rounds import requests_for_all
from tests.fleet_perf.builders import cold, reply, warm
from tests.fleet_perf.imitation import connected, imitation
from tests.fleet_perf.test_cold import BareImitation
from tritonfleet.errors import Unstable
from tritonfleet.talk import Refused

ROUNDS = RoundsOrder(requests=6, clients=2, cold_samples=2)


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch):
    monkeypatch.setattr(promises, "WARM_PAIRS", 2)


async def kept(served):
    async with connected(served) as fleet:
        requests = await requests_for_all(fleet, lambda _: None)
        return await keep_promises(fleet, BareImitation(), requests, ROUNDS, lambda _: None)


async def test_a_run_without_errors_and_within_the_budget_keeps_its_promises():
    report, failed = await kept(imitation("a", "b"))
    assert report.kept
    assert failed == []
    assert report.kinds["cold"].latency_s.count == 2
    assert report.kinds["warm"].latency_s.count == 4
    assert [one.model for one in report.cold] == ["a", "b"]
    assert report.cold_all is not None
    assert report.cold_all.gateway.count == 4
    assert [one.model for one in report.warm] == ["a", "b"]


async def test_more_in_memory_than_there_is_room_for_breaks_a_promise():
    report, _ = await kept(imitation("a", occupied=[101]))
    assert report.error_count == 0
    assert not report.kept


async def test_errors_are_counted_and_shown():
    report, failed = await kept(imitation("a", "b", failing={"b"}))
    assert not report.kept
    assert (report.error_count, report.errors[0]) == (3, "b: 503 no room")
    assert [one.model for one in report.cold] == ["a"]
    assert len(failed) == 2  # neither cold nor warm could be compared


async def test_warm_pairs_are_checked_against_the_counters():
    async with connected(imitation("a", counting=False)) as fleet:
        with pytest.raises(Unstable, match="6 requests of 1 rows were measured"):
            await warm_pairs(fleet, "a", [])


async def test_a_failed_answer_ends_the_warm_pairs_of_a_model():
    async with connected(imitation("a", failing={"a"})) as fleet:
        with pytest.raises(Refused, match="no room"):
            await warm_pairs(fleet, "a", [])


def test_cold_answers_are_told_in_multiples_of_a_bare_start_of_their_model():
    bare = [compare_cold("a", [1.0], [2.0]), compare_cold("b", [1.0], [4.0])]
    replies = [reply("a", cold(4.0)), reply("b", cold(8.0))]
    figures = kind_figures({"warm": [reply("a", warm())], "cold": replies}, bare)
    assert figures["cold"].over_bare is not None
    assert (figures["cold"].over_bare.p50, figures["cold"].latency_s.p50) == (2.0, 6.0)
    assert figures["warm"].over_bare is None


def test_kinds_without_answers_are_left_out():
    assert kind_figures({"warm": [], "cold": []}, []) == {}


def test_pooled_samples_stand_side_by_side():
    found = pooled([compare_cold("a", [2.0], [1.0]), compare_cold("b", [4.0], [2.0])])
    assert found is not None
    assert (found.gateway_s, found.bare_s, found.ratio_p50) == ((2.0, 4.0), (1.0, 2.0), 2.0)
    assert pooled([]) is None
