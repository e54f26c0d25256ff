from __future__ import annotations

from fleet_perf.gateway.clients import GroupReplies
from fleet_perf.gateway.faults import FaultsEffort, fault_figures
from tests.fleet_perf.gateway.builders import fault, fault_findings, replies


def figures(*rows):
    seen = GroupReplies("resident", "grpc", replies(*rows))
    return fault_figures("envoy", seen, killed_s=10.0, until_s=20.0)


def test_silence_is_measured_apart_before_and_after_the_kill():
    found = figures((4, 0.1, ""), (9, 0.1, ""), (10.5, 0.5, "502"), (12, 2.0, ""), (19, 0.1, ""))
    assert (found.gap_before_s, found.gap_s) == (5.0, 7.0)
    assert (found.requests, found.failed, found.errors) == (5, 1, {"502": 1})
    assert found.errors_end_after_s == 0.5
    assert found.before is not None and found.after is not None
    assert (found.before.count, found.after.count, found.after.longest) == (2, 2, 2.0)


def test_a_kill_that_nobody_notices_has_no_errors_and_no_end_of_them():
    found = figures((9, 0.1, ""), (11, 0.1, ""))
    assert (found.failed, found.errors_end_after_s) == (0, None)


def test_pinned_models_and_those_that_come_and_go_are_different_ones():
    effort = FaultsEffort()
    pinned, churning = effort.groups
    assert set(pinned.models).isdisjoint(churning.models)
    assert len(pinned.models) == effort.pinned < effort.crowd.job.room
    assert {*pinned.models, *churning.models} == set(effort.crowd.names)


def test_silence_is_bounded_for_models_in_memory():
    found = fault_findings(fault(gap_s=30.0), fault(group="churning", gap_s=30.0))
    assert [target.kept for target in found.targets] == [False]


def test_clients_that_never_got_an_answer_knew_no_silence_before():
    found = figures((11, 0.1, "502"))
    assert (found.gap_before_s, found.gap_s) == (0.0, 10.0)
    assert found.before is None
