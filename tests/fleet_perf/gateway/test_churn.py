from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet_perf.gateway.churn import _KEPT, MemorySample, thinned, wire_figures
from fleet_perf.gateway.clients import GroupReplies
from tests.fleet_perf.gateway.builders import churn_findings, churn_run, replies


def samples(sizes):
    return [MemorySample(float(at), {"tritonserver": size}) for at, size in enumerate(sizes)]


def kept(run):
    return {target.what: target.kept for target in churn_findings(run).targets}


def test_warm_and_cold_answers_are_told_apart():
    seen = replies((0.0, 0.1, ""), (1.0, 0.5, ""), (2.0, 0.1, ""), (4.0, 0.1, "503"), cold=(1,))
    found = wire_figures(GroupReplies("g", "http", seen))
    assert (found.requests, found.per_s) == (4, 0.75)
    assert found.errors == {"503": 1}
    assert found.warm is not None and found.cold is not None
    assert (found.warm.count, found.cold.count) == (2, 1)


def test_a_single_answer_has_no_rate_that_could_divide_by_zero():
    assert wire_figures(GroupReplies("g", "http", replies((1.0, 0.1, "")))).per_s == 1.0


def test_a_single_error_breaks_the_promise():
    assert all(kept(churn_run()).values())
    assert not kept(churn_run({"503 no room": 1}))["zipf: errors"]


def test_more_than_fits_breaks_the_promise_whether_it_is_charged_or_not():
    assert not kept(churn_run(occupied=101))["zipf: charged, of the capacity"]
    assert not kept(churn_run(held=101))["zipf: grown, of the capacity"]


def test_short_runs_keep_all_their_samples():
    every = samples([3, 1, 2])
    assert thinned(every) == tuple(every)
    assert thinned([]) == ()


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=2000))
def test_long_runs_keep_few_samples_and_the_peak(sizes):
    found = thinned(samples(sizes))
    assert len(found) <= _KEPT + 1
    assert max(one.bytes["tritonserver"] for one in found) == max(sizes)
