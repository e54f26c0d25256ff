"""Changes of the gateway's configuration, timed against a real Envoy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_perf.gateway.config_scale import ScaleEffort, measure_config_scale, percentile
from tritonfleet.gateway.envoy.files import run_folder


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50), st.floats(1, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values, percent):
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-9


@pytest.mark.envoy
async def test_every_kind_of_change_is_seen_by_requests(tmp_path):
    said = []
    effort = ScaleEffort(sizes=(2, 3), residency_changes=3, plan_changes=2, resident=1)
    findings = await measure_config_scale(effort, tmp_path, said.append)
    assert (findings.failed, len(said)) == ([], 2)
    assert [cell.models for cell in findings.cells] == [2, 3]
    for cell in findings.cells:
        assert (len(cell.opened_s), len(cell.closed_s), len(cell.planned_s)) == (3, 3, 2)
        assert cell.late == 0
        assert cell.memory_bytes > 0
        assert not run_folder(tmp_path / str(cell.models)).exists()
