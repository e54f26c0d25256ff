from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_perf.peers.figures import (
    Cold,
    Memory,
    SystemFigures,
    Trace,
    Warm,
    WarmBurst,
    best,
    cold_p50,
    over,
    trace_s,
    verdicts,
)


def system(name, *, ours=False, speed=1.0, errors=(), memory=100):
    """A system whose every figure is ``speed`` times the usual one."""
    burst = WarmBurst(100, 0.1 * speed, 1.0, (0.001 * speed,))
    return SystemFigures(
        name,
        ours,
        "as it comes",
        memory=Memory(8, int(memory * speed), 10),
        cold=Cold((0.02 * speed, 0.03 * speed), 0.1),
        trace=Trace((1.0 * speed, 2.0 * speed), 40, 10, errors),
        warm={clients: Warm(clients, (burst,)) for clients in (1, 2, 4)},
    )


def judged(*systems, tiny=None):
    named = {one.name: one for one in systems}
    return {(v.what, v.against): v for v in verdicts(named, "native", "python", 4, tiny)}


def test_our_figures_are_divided_by_the_best_peers_and_the_other_backends():
    found = judged(
        system("native", ours=True, speed=0.5),
        system("python", ours=True, speed=0.625),
        system("slow", speed=3),
        system("quick"),
    )
    assert [verdict.ratio for verdict in found.values()][:3] == [pytest.approx(0.5)] * 3
    assert found["warm CPU, 1 client", "python"].ratio == pytest.approx(0.8)
    assert found["warm CPU, 4 clients", "quick"].ratio == pytest.approx(0.5)
    assert found["memory of the resident models", "quick"].holds
    assert not any(verdict.missed for verdict in found.values())


def test_each_bound_is_missed_by_a_fleet_that_is_just_too_slow():
    found = judged(
        system("native", ours=True, speed=1.01), system("python", ours=True), system("quick")
    )
    missed = {what for (what, _), verdict in found.items() if verdict.missed}
    assert missed == {
        "cold start p50", "cold start p95", "whole trace", "warm CPU, 1 client",
        "warm CPU, 4 clients", "memory of the resident models",
    }  # fmt: skip


def test_the_bounds_are_those_that_were_promised():
    everybody = {one.name: one for one in (system("native", ours=True), system("peer"))}
    bounds = [verdict.bound for verdict in verdicts(everybody, "native", "python", 4, None)]
    assert sorted(bounds) == [0.5, 0.5, 0.6, 0.8, 0.8, 0.9, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("tiny", "holds"), [(299_000_000, True), (301_000_000, False)])
def test_tiny_models_have_300_megabytes_in_all(tiny, holds):
    found = judged(tiny=tiny)["memory of the tiny models", "300 MB"]
    assert (found.holds, found.missed) == (holds, not holds)


def test_what_was_not_measured_neither_holds_nor_is_missed():
    found = judged(system("native", ours=True)).values()
    assert found
    assert not any(verdict.holds or verdict.missed for verdict in found)


def test_a_peer_that_drops_requests_is_not_the_quickest():
    hasty, slow = system("hasty", speed=0.1, errors=("m: 500",)), system("slow")
    assert best([hasty, slow], trace_s) == ("slow", pytest.approx(3.0))


def test_the_best_of_nobody_is_none():
    assert best([], cold_p50) is None
    assert best([SystemFigures("bare", False, "")], cold_p50) is None


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_ratio_needs_both_sides(ours, theirs):
    assert over(ours, theirs) == ours / theirs
    assert over(None, theirs) is over(ours, None) is over(ours, 0) is None


def test_cpu_is_that_of_the_burst_in_the_middle():
    bursts = tuple(WarmBurst(100, cpu_s, 1.0, (0.001,)) for cpu_s in (0.1, 0.2, 9.0))
    assert Warm(1, bursts).cpu_ms_per_request == pytest.approx(2.0)


def test_the_hit_ratio_is_what_did_not_miss():
    assert Trace((1.0,), requests=40, loads=10, errors=()).hit_ratio == 0.75


def test_where_cpu_goes_is_the_mean_of_all_bursts():
    bursts = (
        WarmBurst(100, 0.3, 1.0, (0.001,), {"server": 0.1, "gateway": 0.2}),
        WarmBurst(100, 0.1, 1.0, (0.001,), {"server": 0.1}),
    )
    assert Warm(1, bursts).cpu_ms_by_name == pytest.approx({"gateway": 1.0, "server": 1.0})
