"""Each part once, small, on a real fleet: what is reported was counted. No test looks at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fleet_perf import install
from fleet_perf.gateway import models
from fleet_perf.gateway.churn import ChurnEffort, measure_churn
from fleet_perf.gateway.cold import ColdEffort, measure_cold
from fleet_perf.gateway.crowd import SMALL as TINY
from fleet_perf.gateway.faults import FaultsEffort, measure_faults
from fleet_perf.gateway.warm import WarmEffort, measure_warm

CROWD = replace(TINY, job=replace(TINY.job, models=6, room=2))
pytestmark = [pytest.mark.triton, pytest.mark.envoy]


def say(_: str) -> None:
    """Nobody listens."""


async def test_cold_starts_are_cold_on_both_sides(tmp_path):
    found = await measure_cold(ColdEffort(pairs=2, crowds=(CROWD,)), tmp_path, say)
    assert found.failed == []
    kinds = [(cell.wire, cell.evicting) for cell in found.cells]
    assert kinds == [("http", False), ("http", True), ("grpc", False), ("grpc", True)]
    assert all(cell.comparison.gateway.count == 2 for cell in found.cells)


async def test_churn_loads_and_unloads_and_every_answer_is_the_right_one(tmp_path):
    effort = ChurnEffort(seconds=2.0, clients=2, patterns=("zipf",), crowd=CROWD)
    found = await measure_churn(effort, tmp_path, say)
    assert found.failed == []
    (run,) = found.runs
    assert [wire.errors for wire in run.wires] == [{}, {}]
    assert run.loads and run.unloads
    cold = sum(wire.cold.count for wire in run.wires if wire.cold)
    # Requests that Python had to see: the cold ones, and those that met a model on its way out.
    assert run.python_requests >= cold > 0
    assert set(run.memory[0].bytes) == {"envoy", "brain", "tritonserver"}


async def test_a_fleet_answers_again_after_envoy_was_killed(tmp_path):
    effort = FaultsEffort(1.0, 4.0, 1, repeats=1, pinned=1, victims=("envoy",), crowd=CROWD)
    found = await measure_faults(effort, tmp_path, say)
    assert found.failed == []
    assert {(one.group, one.wire) for one in found.figures} == {
        ("resident", "http"), ("resident", "grpc"), ("churning", "http"), ("churning", "grpc"),
    }  # fmt: skip
    assert all(one.after is not None and one.after.count for one in found.figures)


@pytest.mark.perf
async def test_a_warm_request_never_meets_python(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_depth", lambda: 1)
    program = install.find_or_install(Path(".tritonfleet"))
    effort = WarmEffort(models=("small",), concurrency=(2,), pairs=1, window_ms=300)
    found = await measure_warm(program, effort, tmp_path, say)
    assert found.failed == []
    assert [cell.name.protocol for cell in found.cells] == ["http", "grpc"]
    for cell in found.cells:
        assert cell.python_requests == 0
        assert cell.cpu_us_per_request > 0
