from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_perf.peers.cycles import CyclesResults, Sample, markdown
from tests.fleet_perf.test_report import ENVIRONMENT


def results(*settled: int, cycles: int | None = None) -> CyclesResults:
    samples = [
        Sample(cycle, before=100, loaded=200, unloaded=110, settled=size, pss=size)
        for cycle, size in enumerate(settled)
    ]
    return CyclesResults("native", cycles or len(settled), 4, 25, ENVIRONMENT, 1.0, samples)


@given(st.integers(-100, 100), st.integers(4, 40))
def test_the_slope_is_what_each_cycle_adds(added, cycles):
    found = results(*(10_000 + added * cycle for cycle in range(cycles)))
    assert found.slope == pytest.approx(added, abs=1e-6)


def test_what_the_first_cycles_add_is_no_leak():
    assert results(*(min(cycle, 20) * 10**6 for cycle in range(100))).flat


def test_a_few_kilobytes_each_time_are_a_leak():
    sizes = [10**8 + 5000 * cycle for cycle in range(0, 2000, 20)]
    samples = [Sample(20 * n, 1, 2, 1, size, size) for n, size in enumerate(sizes)]
    found = CyclesResults("native", 2000, 4, 25, ENVIRONMENT, 1.0, samples)
    assert found.slope == pytest.approx(5000)
    assert not found.flat
    assert "NOT FLAT" in markdown(found)


def test_falling_memory_is_flat():
    assert results(*range(10**8, 0, -(10**6))).flat


def test_the_share_returned_at_once_is_that_of_the_model():
    assert results(1, 1).returned_at_once == pytest.approx(0.9)


def test_a_model_that_takes_nothing_is_no_division_by_zero():
    assert Sample(0, 5, 5, 5, 5, 5).returned_at_once == 0


def test_the_json_holds_the_series():
    data = json.loads(json.dumps(results(1, 2, 3, 4).as_json()))
    assert [sample["settled"] for sample in data["samples"]] == [1, 2, 3, 4]
    assert data["flat"] is True
