from __future__ import annotations

from fleet_perf.rounds import Eviction, arrivals, by_kind, requests_for_all, round_robin
from tests.fleet_perf.builders import cold, config, refused, reply, tensor, warm
from tests.fleet_perf.imitation import connected, imitation


def kinds(replies, decided):
    return {kind: len(found) for kind, found in by_kind(replies, decided).items() if found}


async def test_every_model_gets_its_share_of_the_requests():
    served = imitation("a", "b", "c")
    async with connected(served) as fleet:
        requests = await requests_for_all(fleet, lambda _: None)
        replies = await round_robin(fleet, requests, count=8, clients=3)
    assert served.counts == {"a": 3, "b": 3, "c": 2}
    assert sorted(one.model for one in replies) == sorted("abcabcab")


async def test_models_that_cannot_be_asked_are_left_out_and_named():
    served = imitation("a", "unbuilt", unbuilt={"unbuilt"})
    served.configs["talkative"] = config(
        tensor("x", "FP32", [1]), name="talkative", model_transaction_policy={"decoupled": True}
    )
    said: list[str] = []
    async with connected(served) as fleet:
        assert list(await requests_for_all(fleet, said.append)) == ["a"]
    assert [line.split()[0] for line in said] == ["unbuilt", "talkative"]


async def test_failed_requests_are_replies_too():
    async with connected(imitation("a", "b", failing={"b"})) as fleet:
        requests = await requests_for_all(fleet, lambda _: None)
        replies = await round_robin(fleet, requests, count=4, clients=1)
    assert [one.answer.status for one in replies] == [200, 503, 200, 503]


async def test_departures_are_no_arrivals():
    decided = [
        {"model": "a", "evicted": ["b"], "seconds_ago": 1.0},
        {"model": "a", "evicted": ["a"], "seconds_ago": 0.5},
    ]
    async with connected(imitation("a", "b", decided=decided)) as fleet:
        found = await arrivals(fleet, ["a", "b"])
    assert [(one.model, one.evicted) for one in found] == [("a", ("b",))]


def test_warm_and_failed_answers_are_no_cold_starts():
    assert kinds([reply("a", warm()), reply("a", refused())], []) == {"warm": 1}


def test_a_cold_start_is_told_by_the_last_decision_before_its_answer():
    decided = [Eviction("a", 1.0, ("b",)), Eviction("a", 5.0, ()), Eviction("a", 20.0, ("c",))]
    early, late = reply("a", cold(), ended_at=4.0), reply("a", cold(), ended_at=10.0)
    assert kinds([early], decided) == {"cold": 1, "cold, others evicted": 1}
    assert kinds([late], decided) == {"cold": 1, "cold, nobody evicted": 1}


def test_decisions_for_other_models_tell_nothing():
    assert kinds([reply("a", cold())], [Eviction("b", 1.0, ())]) == {"cold": 1}
