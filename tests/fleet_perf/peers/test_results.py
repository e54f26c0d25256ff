from __future__ import annotations

import json

import pytest

from fleet_perf.peers.figures import SystemFigures
from fleet_perf.peers.job import zipf_trace
from fleet_perf.peers.report import markdown, sections
from fleet_perf.peers.results import PeerResults
from fleet_perf.report import write_files
from tests.fleet_perf.peers.imitation import EFFORT, JOB
from tests.fleet_perf.peers.test_figures import system
from tests.fleet_perf.test_report import ENVIRONMENT
from tritonfleet.errors import Unstable


def results(*systems, failed=(), tiny=None) -> PeerResults:
    return PeerResults(
        JOB, EFFORT, zipf_trace(JOB, 12), ENVIRONMENT, {one.name: one for one in systems},
        tiny, list(failed),
    )  # fmt: skip


GOOD = (system("native", ours=True, speed=0.4), system("python", ours=True), system("peer"))


def test_results_are_good_when_nothing_failed_and_no_bound_is_missed():
    assert results(*GOOD).good
    assert not results(*GOOD, failed=[Unstable("peer", "a test")]).good
    assert not results(*GOOD, tiny=400_000_000).good


def test_the_json_holds_the_trace_all_samples_and_every_verdict(tmp_path):
    found = results(*GOOD, tiny=100)
    write_files(tmp_path, found.as_json(), markdown(found))
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["trace"] == list(found.trace)
    assert data["systems"]["peer"]["cold"]["latency_s"] == [0.02, 0.03]
    assert data["systems"]["peer"]["summary"]["warm"]["1"]["cpu_ms_per_request"] == 1.0
    assert len(data["verdicts"]) == 9
    assert all(verdict["holds"] for verdict in data["verdicts"])


def test_the_tables_name_every_system_and_its_ratio_to_the_best_peer():
    text = markdown(results(*GOOD, tiny=123_000_000))
    for title in ("Cold starts", "Whole trace", "Warm requests", "Memory", "Settings"):
        assert f"## {title}" in text
    assert "| native |       2 |  10.00 |  0.40 |  11.80 |  0.40 |" in text
    assert "123 MB" in text


def test_a_missed_bound_is_plain_to_see():
    slow = system("native", ours=True, speed=2)
    assert "NO" in markdown(results(slow, system("peer")))
    assert "NO" not in markdown(results(*GOOD))


@pytest.mark.parametrize("systems", [(), (SystemFigures("bare", False, ""),)])
def test_what_was_not_measured_leaves_gaps_and_no_crash(systems):
    found = results(*systems, failed=[Unstable("bare", "a test")])
    assert len(sections(found)) == 7
    assert "not measured" in markdown(found)
    assert "- bare: a test" in markdown(found)
    json.dumps(found.as_json())
