from __future__ import annotations

import json

import pytest

from fleet_perf.gateway.report import markdown, sections
from fleet_perf.gateway.results import GatewayResults
from fleet_perf.gateway.warm import WarmFindings
from tests.fleet_perf.gateway.builders import (
    cell,
    churn_findings,
    churn_run,
    cold_cell,
    cold_findings,
    fault,
    fault_findings,
    run,
    scale_findings,
)
from tritonfleet.errors import Unstable

ENVIRONMENT = {
    "taken_at": "now",
    "cpu": "a cpu",
    "usable_cores": 2,
    "load_average": [0.5, 0.5, 0.5],
    "commit": None,
}
WARM = WarmFindings([cell([run(100)], [run(80, 1100, cpu_us=61)])])
EVERY = {
    "warm": WARM,
    "cold": cold_findings(cold_cell([0.021], [0.020])),
    "churn": churn_findings(churn_run({"503 no room": 2})),
    "faults": fault_findings(fault(errors={"UNAVAILABLE reset": 3}), fault(gap_s=0.6)),
    "config-scale": scale_findings(10, 1000),
}


def results(part, findings=None) -> GatewayResults:
    return GatewayResults(part, ENVIRONMENT, findings or EVERY[part])


@pytest.mark.parametrize("part", EVERY)
def test_every_part_has_tables_and_targets(part):
    titles = [section.title for section in sections(results(part))]
    assert titles[-1] == "Targets"
    assert len(titles) >= 2


@pytest.mark.parametrize("part", EVERY)
def test_json_holds_every_figure_and_target(part):
    plain = json.loads(json.dumps(results(part).as_json()))
    assert plain["name"] == f"gateway-{part}"
    assert plain["targets"]
    assert plain["failed"] == []
    found = [value for name, value in plain.items() if name in ("cells", "runs", "figures")]
    assert found and found[0]


def test_the_warm_table_shows_both_sides_and_what_was_added():
    text = markdown(results("warm"))
    row = next(line for line in text.splitlines() if line.startswith("| small"))
    for figure in ("100 / 80", "0.80", "+0.10", "61"):
        assert figure in row


def test_several_kills_of_one_process_are_one_row():
    text = markdown(results("faults"))
    rows = [line for line in text.splitlines() if line.startswith("| envoy")]
    assert len(rows) == 1 + 1  # and the target
    assert "2000" in rows[0] and "0.50 (0.60)" in rows[0]
    assert "envoy killed: 3 × http: UNAVAILABLE reset" in text


def test_errors_stand_below_the_table_they_spoil():
    assert "2 × http: 503 no room" in markdown(results("churn"))


def test_a_missed_target_and_a_missing_cell_are_no_good():
    assert results("warm").good
    assert not results("churn").good
    missing = WarmFindings(WARM.cells, [Unstable("big", "it did not settle")])
    assert not results("warm", missing).good
    assert "it did not settle" in markdown(results("warm", missing))


def test_missed_targets_come_first():
    found = churn_findings(churn_run(held=101))
    rows = sections(results("churn", found))[-1].table.columns[0]._cells
    assert rows[0] == "zipf: grown, of the capacity"
