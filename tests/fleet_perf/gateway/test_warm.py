from __future__ import annotations

from dataclasses import replace

import pytest

from fleet_perf import analyzer
from fleet_perf.gateway import warm
from fleet_perf.gateway.stand import Stand
from fleet_perf.gateway.warm import WarmEffort, _Measuring
from fleet_perf.install import Program
from fleet_perf.peers.processes import ProcessTree
from tests.fleet_perf.builders import measurement
from tests.fleet_perf.imitation import connected, imitation
from tritonfleet.errors import Unstable

EFFORT = WarmEffort(models=("small",), concurrency=(1, 8), pairs=2)


class Tool:
    """In place of perf_analyzer: asks nobody, and lets Triton count what it likes."""

    def __init__(self, triton, answered=100):
        self.triton, self.answered, self.addresses, self.unsettled = triton, answered, [], 0

    async def run(self, _program, load, address, _data):
        self.addresses.append((address, load.protocol, load.concurrency))
        if self.unsettled:
            self.unsettled -= 1
            raise Unstable("m", "it did not settle")
        counts = self.triton.counts
        counts[load.model] = counts.get(load.model, 0) + 300  # outside the windows, too
        return replace(measurement(), requests=self.answered)


@pytest.fixture
async def measured(tmp_path, monkeypatch):
    """Cells measured with a tool that asks nobody; gives the findings for what it does."""
    triton = imitation("small")
    times = iter(range(0, 10**12, 6_000_000))
    monkeypatch.setattr(warm, "cpu_ns", lambda _: next(times))
    monkeypatch.setattr(Stand, "pid", lambda *_: 1)
    async with connected(triton) as fleet:
        fleet.gateway = "http://gateway:8000"

        async def config(_):
            return triton.configs["small"]

        monkeypatch.setattr(fleet, "config", config)
        stand = Stand(fleet, "gateway:8001", "s", ProcessTree(-1), tmp_path / "log")
        tool = Tool(triton)
        monkeypatch.setattr(analyzer, "run", tool.run)
        measuring = _Measuring(stand, Program(tmp_path), EFFORT, lambda _: None)
        yield measuring.run, tool, triton


async def test_both_sides_take_turns_and_change_who_goes_first(measured):
    run, tool, triton = measured
    found = await run()
    assert not found.failed
    direct = triton.address
    assert tool.addresses[:4] == [
        (direct, "http", 1), ("gateway:8000", "http", 1),
        (direct, "http", 8), ("gateway:8000", "http", 8),
    ]  # fmt: skip
    second_round = tool.addresses[8:]
    assert second_round[0] == ("gateway:8000", "http", 1)
    assert ("gateway:8001", "grpc", 8) in second_round
    assert [len(cell.direct) for cell in found.cells] == [2, 2, 2, 2]


async def test_cpu_is_shared_by_all_requests_that_triton_counted(measured):
    run, *_ = measured
    found = await run()
    assert found.cells[0].cpu_us_per_request == 6_000 / 300


async def test_a_run_that_did_not_settle_is_taken_once_more(measured):
    run, tool, _ = measured
    tool.unsettled = 1
    assert len((await run()).cells) == 4


async def test_a_cell_that_never_settles_is_left_out_and_told(measured):
    run, tool, _ = measured
    tool.unsettled = 2
    found = await run()
    assert len(found.cells) == 3
    assert [str(error) for error in found.failed]


async def test_what_the_tool_claims_and_triton_did_not_count_is_no_measurement(measured):
    run, tool, _ = measured
    tool.answered = 301
    found = await run()
    assert (found.cells, len(found.failed)) == ([], 4)
