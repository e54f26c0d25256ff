"""Who is admitted to which model, for how long, and what it may hold meanwhile."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.controller.imitation import Triton, controlling, until
from tests.gateway.fleet import Fleet
from tritonfleet.errors import (
    DeadlineExceeded,
    FleetError,
    FleetSaturated,
    LoadFailed,
    ModelNotFound,
    ModelTooLarge,
    NotAllowed,
    QueueFull,
    ServerUnreachable,
    TooMuchHeld,
)
from tritonfleet.gateway.desk import REQUEST_BYTES, Asked, Desk, Rules
from tritonfleet.settings import Settings
from tritonfleet.spec.fleet import FleetSpec
from tritonfleet.spec.traffic import TenantSpec


def desk(fleet, *models, **rules):
    return Desk(fleet, Rules(models=models or ("one", "two"), **rules))


async def admitted(desk, **asked):
    async with desk.admit(Asked(**{"model": "one", **asked})) as admission:
        return admission


def tenants(**declared):
    return {name: TenantSpec(**fields) for name, fields in declared.items()}


# -- who may what --------------------------------------------------------------------------------


def test_everybody_may_everything_where_no_tenants_are_declared():
    open_desk = desk(Fleet())
    assert open_desk.may_call(None, "one")
    assert open_desk.may_manage(None)
    assert open_desk.visible("anybody") == ("one", "two")


def test_a_tenant_sees_and_calls_what_its_patterns_name():
    rules = {"tenants": tenants(team={"models": ("team-*",)}, ops={"manage": True})}
    guarded = desk(Fleet(), "team-a", "other", **rules)
    assert guarded.visible("team") == ("team-a",)
    assert guarded.visible("ops") == ("team-a", "other")
    assert guarded.visible("stranger") == guarded.visible(None) == ()
    assert guarded.may_manage("ops")
    assert not any(guarded.may_manage(tenant) for tenant in ("team", "stranger", None))


async def test_a_model_of_somebody_else_is_refused_before_anything_is_held():
    fleet = Fleet(ready={"one"})
    guarded = desk(fleet, tenants=tenants(team={"models": ("two",)}))
    with pytest.raises(NotAllowed, match="tenant 'team' may not call one"):
        await admitted(guarded, tenant="team", size_bytes=2**40)
    assert fleet.asked == []


async def test_a_suggestion_names_no_model_that_the_caller_may_not_know_of():
    guarded = desk(Fleet(), "secret", "open", tenants=tenants(team={"models": ("open",)}))
    with pytest.raises(ModelNotFound) as raised:
        await admitted(guarded, model="secre", tenant="team")
    assert "secret" not in str(raised.value)


def test_the_rules_are_those_of_the_fleet_file():
    source = {"source": {"kind": "onnx", "path": "m.onnx"}}
    spec = FleetSpec.model_validate(
        {
            "servers": [{"name": "gpu0", "capacity": "1GiB"}],
            "access": {"tenants": {"team": {"models": ["one"], "api_keys": ["env:KEY"]}}},
            "models": {
                "one": {
                    **source,
                    "fallback": ["two"],
                    "limits": {"timeout_s": 3},
                    "mirror": {"model": "two"},
                },
                "two": {**source, "labels": {"latency-class": "batch"}},
            },
        }
    )
    rules = Rules.of(spec, Settings(queue_timeout_s=7, held_request_bytes=2**21))
    assert rules.models == ("one", "two")
    assert rules.fallbacks == {"one": ("two",)}
    assert rules.mirrors == {"one": "two"}
    assert rules.timeouts_s == {"one": 3}
    assert rules.batch_models == {"two"}
    assert set(rules.tenants) == {"team"}
    assert (rules.queue_timeout_s, rules.held_request_bytes) == (7, 2**21)


# -- classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "batch"),
    [
        ({}, False),
        ({"latency_class": "batch"}, True),
        ({"model": "nightly"}, True),
        ({"model": "nightly", "latency_class": "interactive"}, False),
        ({"tenant": "cheap"}, True),
        ({"tenant": "cheap", "latency_class": "interactive"}, True),
        ({"tenant": "team"}, False),
        ({"tenant": "team", "latency_class": "batch"}, True),
    ],
)
async def test_a_batch_tenant_stays_so_and_others_choose_their_class(asked, batch):
    fleet, declared = Fleet(), {}
    if "tenant" in asked:
        declared = tenants(team={}, cheap={"latency_class": "batch"})
    await admitted(
        desk(fleet, "one", "nightly", batch_models=frozenset({"nightly"}), tenants=declared),
        **asked,
    )
    assert fleet.asked[0][2] is batch


# -- deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deadline_s", "timeout_s", "patience_s", "remaining_s"),
    [(None, None, 60, None), (5, None, 5, 5), (None, 8, 8, 8), (5, 8, 5, 5), (100, 80, 60, 80)],
)
async def test_a_wait_is_as_long_as_the_shortest_limit(
    deadline_s, timeout_s, patience_s, remaining_s
):
    fleet = Fleet()
    limits = {} if timeout_s is None else {"one": timeout_s}
    admission = await admitted(desk(fleet, timeouts_s=limits), deadline_s=deadline_s)
    assert fleet.asked[0][1] == patience_s
    assert admission.remaining_s == remaining_s


async def test_time_that_is_spent_already_counts():
    fleet = Fleet()
    admission = await admitted(desk(fleet), deadline_s=5.0, spent_s=3.0)
    assert fleet.asked[0][1] == admission.remaining_s == 2.0
    assert admission.waited_s == 3.0


async def test_a_deadline_of_the_callers_own_that_passes_is_told_as_such():
    fleet = Fleet(refusals={"one": FleetSaturated("one", 0.5, 1.0)})
    with pytest.raises(DeadlineExceeded, match=r"within the 0\.5 s"):
        await admitted(desk(fleet), deadline_s=0.5)


@pytest.mark.parametrize("limits", [{}, {"one": 0.5}])
async def test_a_wait_that_we_end_is_told_as_no_room(limits):
    fleet = Fleet(refusals={"one": FleetSaturated("one", 0.5, 1.0)})
    with pytest.raises(FleetSaturated):
        await admitted(desk(fleet, timeouts_s=limits), deadline_s=1000.0)


@pytest.mark.parametrize("deadline_s", [0.0, -1.0])
async def test_a_deadline_that_is_over_asks_for_nothing(deadline_s):
    fleet = Fleet(ready={"one"})
    with pytest.raises(DeadlineExceeded):
        await admitted(desk(fleet), deadline_s=deadline_s)
    assert fleet.asked == []


# -- fallbacks -----------------------------------------------------------------------------------

REFUSALS = {
    "saturated": FleetSaturated("m", 1.0, 1.0),
    "full": QueueFull("m", "8 requests wait for it already"),
    "failed": LoadFailed("m", "corrupt"),
    "large": ModelTooLarge("m", 2, 1),
    "unreachable": ServerUnreachable("gpu0", "down"),
}
CHAIN = ("one", "two", "three", "four")


@given(
    states=st.lists(st.sampled_from(["fine", *REFUSALS]), min_size=4, max_size=4),
    deadline_s=st.none() | st.floats(0.1, 100),
)
async def test_the_first_model_of_the_chain_that_can_be_had_answers(states, deadline_s):
    refusals = {
        model: REFUSALS[state]
        for model, state in zip(CHAIN, states, strict=True)
        if state != "fine"
    }
    fleet = Fleet(refusals=refusals)
    chained = desk(fleet, *CHAIN, fallbacks={"one": CHAIN[1:]})
    expected = next((model for model in CHAIN if model not in refusals), None)
    try:
        admission = await admitted(chained, deadline_s=deadline_s)
    except FleetError as error:
        assert expected is None
        own = refusals["one"]
        late = isinstance(own, FleetSaturated) and isinstance(error, DeadlineExceeded)
        assert error is own or late
    else:
        assert admission.model == expected
        assert admission.fallback == (None if expected == "one" else expected)
    patience_s = 60 if deadline_s is None else min(60, deadline_s)
    assert fleet.time <= patience_s + 0.01, "waited longer than there was time"
    assert [model for model, _, _ in fleet.asked] == list(CHAIN[: len(fleet.asked)])


async def test_a_saturated_model_leaves_its_fallback_half_of_the_time():
    fleet = Fleet(refusals={"one": FleetSaturated("one", 5.0, 1.0)})
    admission = await admitted(desk(fleet, fallbacks={"one": ("two",)}), deadline_s=10.0)
    assert [timeout for _, timeout, _ in fleet.asked] == [5.0, 5.0]
    assert (admission.fallback, admission.remaining_s) == ("two", 5.0)


async def test_an_explicit_version_has_no_substitute():
    fleet = Fleet(ready={"two"}, refusals={"one": LoadFailed("one", "corrupt")})
    with pytest.raises(LoadFailed):
        await admitted(desk(fleet, fallbacks={"one": ("two",)}), version="3")
    assert [model for model, _, _ in fleet.asked] == ["one"]


async def test_what_a_model_in_memory_has_refused_goes_to_its_fallback():
    fleet = Fleet(ready={"one", "two"})
    chained = desk(fleet, fallbacks={"one": ("two",)})
    assert (await admitted(chained, overloaded=True)).model == "two"
    fleet.refusals["two"] = LoadFailed("two", "corrupt")
    with pytest.raises(QueueFull, match="one: it is at its limits"):
        await admitted(chained, overloaded=True)


async def test_a_second_attempt_at_a_model_that_has_left_loads_it():
    fleet = Fleet(ready={"two"})
    chained = desk(fleet, fallbacks={"one": ("two",)})
    assert (await admitted(chained, overloaded=True)).model == "one"


async def test_a_model_without_fallback_is_asked_again():
    assert (await admitted(desk(Fleet(ready={"one"})), overloaded=True)).model == "one"


# -- copies --------------------------------------------------------------------------------------


async def test_a_copy_goes_to_the_mirror_as_batch_and_only_if_that_is_in_memory():
    fleet = Fleet(ready={"one"})
    mirroring = desk(fleet, mirrors={"one": "two"})
    with pytest.raises(FleetSaturated, match="a copy loads nothing"):
        await admitted(mirroring, mirrored=True)
    assert fleet.asked == []
    fleet.ready.add("two")
    admission = await admitted(mirroring, mirrored=True, version="3")
    assert (admission.model, admission.version, admission.fallback) == ("two", "", None)
    assert fleet.asked[0][2] is True


async def test_a_copy_of_a_request_for_a_model_without_mirror_is_none():
    with pytest.raises(ModelNotFound):
        await admitted(desk(Fleet(ready={"one"})), mirrored=True)


# -- what is held --------------------------------------------------------------------------------

LIMIT = 2**20


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["come", "leave", "fail"]), st.integers(0, LIMIT // 2)),
        max_size=40,
    )
)
async def test_never_more_is_held_than_may_be_and_all_of_it_is_given_back(steps):
    fleet = Fleet(ready={"one"})
    bounded = desk(fleet, held_request_bytes=LIMIT)
    inside, expected = [], 0
    for step, size in steps:
        if step == "come" or not inside:
            admission = bounded.admit(Asked("one", size_bytes=size))
            fits = expected + size + REQUEST_BYTES <= LIMIT
            try:
                await admission.__aenter__()
            except TooMuchHeld:
                assert not fits
            else:
                assert fits
                inside.append((admission, size))
        else:
            admission, size = inside.pop(size % len(inside))
            error = RuntimeError("its holder failed") if step == "fail" else None
            with contextlib.suppress(RuntimeError):
                await admission.__aexit__(type(error) if error else None, error, None)
        expected = sum(size + REQUEST_BYTES for _, size in inside)
        assert bounded.counters.held_bytes == expected <= LIMIT
        assert bounded.counters.held == len(inside)
    for admission, _ in inside:
        await admission.__aexit__(None, None, None)
    assert (bounded.counters.held, bounded.counters.held_bytes) == (0, 0)


async def test_what_a_refused_request_held_is_given_back():
    refusing = desk(Fleet(refusals={"one": LoadFailed("one", "corrupt")}))
    with pytest.raises(LoadFailed):
        await admitted(refusing, size_bytes=100)
    assert (refusing.counters.held, refusing.counters.held_bytes) == (0, 0)
    assert refusing.counters.requests == 1


async def test_empty_requests_are_bounded_too():
    bounded = desk(Fleet(ready={"one"}), held_request_bytes=3 * REQUEST_BYTES)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(bounded.admit(Asked("one")))
        with pytest.raises(TooMuchHeld, match="held_request_bytes"):
            await admitted(bounded)


# -- over a real controller ----------------------------------------------------------------------


async def test_a_cold_model_is_loaded_and_held_for_as_long_as_the_request_lasts():
    async with controlling(Triton(), {"one": 6, "two": 6}) as controller:
        real = desk(controller)
        async with real.admit(Asked("one")) as admission:
            assert (admission.model, admission.server, admission.cold) == ("one", "gpu0", True)
            admission.proved()
            with pytest.raises(DeadlineExceeded):
                await admitted(real, model="two", deadline_s=0.05)
        assert (await admitted(real, model="two")).cold


async def test_a_caller_who_leaves_is_forgotten_at_once_and_the_load_goes_on():
    triton = Triton()
    opened = triton.hold("load", "one")
    async with controlling(triton, {"one": 6}) as controller:
        real = desk(controller, "one")
        waiting = asyncio.ensure_future(admitted(real))
        await until(lambda: controller.ledger.waiting("one"))
        waiting.cancel()
        await asyncio.wait([waiting])
        assert controller.ledger.waiting("one") == real.counters.held == 0
        opened.set()
        await until(lambda: controller.ledger.ready_on("one"))


async def test_a_broken_model_is_answered_by_its_fallback():
    class Broken(Triton):
        async def load(self, model, *others, **more):
            await super().load(model, *others, **more)
            if model == "one":
                raise LoadFailed(model, "corrupt")

    async with controlling(Broken(), {"one": 6, "two": 6}) as controller:
        admission = await admitted(desk(controller, fallbacks={"one": ("two",)}))
        assert (admission.model, admission.fallback) == ("two", "two")
