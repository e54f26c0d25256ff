"""PriorityLRU by value: who leaves for whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.controller.fleet import busy, idle, model, server
from tritonfleet.controller.policy import Plan, PriorityLRU, ageing


def plan(wanted, *servers):
    return PriorityLRU().plan(wanted, servers)


def test_a_model_that_fits_displaces_nobody():
    fleet = server("gpu0", capacity=10, residents=[idle("bert", 4)])
    assert plan(model("llm", 6), fleet) == Plan("gpu0")


def test_the_least_recently_used_idle_model_is_evicted():
    residents = [idle("bert", 6, used=1), idle("vit", 4, used=2)]
    fleet = server("gpu0", capacity=10, residents=residents)
    assert plan(model("llm", 5), fleet) == Plan("gpu0", evict=("bert",))


def test_an_unimportant_model_grows_old_faster():
    residents = [idle("bert", 5, used=50, priority=1), idle("vit", 5, used=90, priority=10)]
    fleet = server("gpu0", capacity=10, residents=residents)
    assert plan(model("llm", 5), fleet) == Plan("gpu0", evict=("vit",))


def test_an_important_model_that_idles_long_enough_still_goes():
    residents = [idle("bert", 5, used=0, priority=1), idle("vit", 5, used=95, priority=10)]
    fleet = server("gpu0", capacity=10, residents=residents)
    assert plan(model("llm", 5), fleet) == Plan("gpu0", evict=("bert",))


def test_among_models_in_use_a_moment_ago_the_least_important_goes():
    residents = [idle("bert", 5, used=100, priority=1), idle("vit", 5, used=100, priority=7)]
    fleet = server("gpu0", capacity=10, residents=residents)
    assert plan(model("llm", 5), fleet) == Plan("gpu0", evict=("vit",))


@pytest.mark.parametrize(("priority", "factor"), [(1, 1.0), (10, 10.0)])
def test_ageing_spans_one_decade(priority, factor):
    assert ageing(priority) == pytest.approx(factor)


def test_priority_orders_victims_but_protects_nobody_for_ever():
    fleet = server("gpu0", capacity=10, residents=[idle("bert", 10, priority=1)])
    assert plan(model("llm", 5, priority=9), fleet) == Plan("gpu0", evict=("bert",))


def test_a_model_in_use_stays():
    residents = [busy("bert", 6, used=1), idle("vit", 4, used=2)]
    fleet = server("gpu0", capacity=10, residents=residents)
    assert plan(model("llm", 4), fleet) == Plan("gpu0", evict=("vit",))


def test_nothing_is_evicted_when_it_would_not_suffice():
    residents = [busy("bert", 6), idle("vit", 4)]
    assert plan(model("llm", 5), server("gpu0", capacity=10, residents=residents)) is None


def test_a_superfluous_victim_is_spared():
    residents = [idle("small", 1, used=1), idle("large", 9, used=2)]
    fleet = server("gpu0", capacity=10, residents=residents)
    assert plan(model("llm", 9), fleet) == Plan("gpu0", evict=("large",))


def test_a_member_leaves_with_the_ensembles_that_need_it():
    residents = [idle("encoder", 8, used=1, dependents=["search"]), idle("search", 0, used=1)]
    fleet = server("gpu0", capacity=10, residents=residents)
    assert plan(model("llm", 5), fleet) == Plan("gpu0", evict=("search", "encoder"))


def test_a_member_is_as_recently_used_as_its_ensemble():
    residents = [
        idle("encoder", 5, used=1, dependents=["search"]),
        idle("search", 0, used=9),
        idle("vit", 5, used=5),
    ]
    fleet = server("gpu0", capacity=10, residents=residents)
    assert plan(model("llm", 5), fleet) == Plan("gpu0", evict=("vit",))


def test_members_already_there_are_not_counted_again_nor_evicted():
    residents = [idle("encoder", 6, used=1), idle("vit", 4, used=2)]
    fleet = server("gpu0", capacity=10, residents=residents)
    wanted = model("intent", 0, parts=[("encoder", 6), ("head", 3)])
    assert plan(wanted, fleet) == Plan("gpu0", evict=("vit",))


def test_the_server_that_needs_no_eviction_is_chosen():
    full = server("gpu0", capacity=10, residents=[idle("bert", 10)])
    free = server("gpu1", capacity=6)
    assert plan(model("llm", 5), full, free) == Plan("gpu1")


def test_among_full_servers_the_least_worth_victim_decides():
    recent = server("gpu0", capacity=10, residents=[idle("bert", 10, used=9)])
    old = server("gpu1", capacity=10, residents=[idle("vit", 10, used=1)])
    assert plan(model("llm", 5), recent, old) == Plan("gpu1", evict=("vit",))


holdings = st.lists(
    st.builds(
        lambda footprint, used, priority, evictable: (footprint, used, priority, evictable),
        st.integers(0, 6),
        st.integers(0, 9),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=8,
)


@given(holdings, st.integers(1, 30), st.integers(1, 12))
def test_every_plan_makes_room_without_a_needless_victim(raw, capacity, need):
    residents = [
        (idle if evictable else busy)(f"m{i}", size, used=used, priority=priority)
        for i, (size, used, priority, evictable) in enumerate(raw)
    ]
    fleet = server("gpu0", capacity=capacity, residents=residents)
    found = plan(model("llm", need), fleet)
    sizes = {r.model: r.footprint for r in residents}
    evictable = {r.model for r in residents if r.evictable}
    if found is None:
        assert fleet.free + sum(sizes[name] for name in evictable) < need
        return
    freed = fleet.free + sum(sizes[name] for name in found.evict)
    assert freed >= need
    assert set(found.evict) <= evictable
    assert all(freed - sizes[name] < need for name in found.evict)


@given(holdings, st.integers(1, 30), st.integers(1, 12), st.integers(1, 1000))
def test_shifting_all_times_changes_no_decision(raw, capacity, need, shift):
    def decide(offset):
        residents = [
            (idle if evictable else busy)(f"m{i}", size, used=used + offset, priority=priority)
            for i, (size, used, priority, evictable) in enumerate(raw)
        ]
        fleet = server("gpu0", capacity=capacity, residents=residents, now=100.0 + offset)
        return plan(model("llm", need), fleet)

    assert decide(0) == decide(shift)
