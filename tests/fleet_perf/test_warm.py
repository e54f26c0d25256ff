from __future__ import annotations

import pytest

from fleet_perf import warm
from fleet_perf.install import Program
from fleet_perf.scenarios import Effort, WarmScenario
from fleet_perf.warm import input_data, measure_warm
from tests.fleet_perf.builders import measurement
from tests.fleet_perf.imitation import connected, imitation
from tritonfleet.errors import AnalyzerFailed, InvalidSpec, Unstable

EFFORT = Effort(repeats=2)
REQUESTS = 100


@pytest.fixture
def analyzer(monkeypatch):
    """In place of the tool: answers from a list, and tells which address it was sent to."""

    class Analyzer:
        def __init__(self) -> None:
            self.addresses: list[str] = []
            self.outcomes: list[Exception | None] = []
            self.served = imitation("m")
            self.loses = 0

        async def run(self, program, load, address, data):
            self.addresses.append(address)
            outcome = self.outcomes.pop(0) if self.outcomes else None
            if outcome is not None:
                raise outcome
            self.served.counts["m"] = self.served.counts.get("m", 0) + REQUESTS - self.loses
            return measurement()

    tool = Analyzer()
    monkeypatch.setattr(warm.analyzer, "run", tool.run)
    return tool


async def measured(tool, tmp_path, **more):
    scenario = WarmScenario(model="m", state="warm", concurrency=(1,), **more)
    async with connected(tool.served) as fleet:
        program = Program(tmp_path)
        return await measure_warm(fleet, program, scenario, {}, EFFORT, lambda _: None)


async def test_direct_and_gateway_take_turns(analyzer, tmp_path):
    served = analyzer.served
    async with connected(served) as fleet:
        fleet.gateway = f"http://localhost:{served.address.rpartition(':')[2]}"
        scenario = WarmScenario(model="m", state="warm", concurrency=(1,))
        program = Program(tmp_path)
        found, failed = await measure_warm(fleet, program, scenario, {}, EFFORT, lambda _: None)
        direct, gateway = served.address, fleet.gateway.removeprefix("http://")
    assert analyzer.addresses == [direct, gateway, direct, gateway]
    assert (len(found), failed) == (1, [])


async def test_an_unstable_run_is_taken_once_more(analyzer, tmp_path):
    analyzer.outcomes = [Unstable("m", "noise")]
    found, failed = await measured(analyzer, tmp_path)
    assert len(analyzer.addresses) == 5
    assert (len(found), failed) == (1, [])


async def test_a_cell_that_stays_unstable_is_told_and_the_others_go_on(analyzer, tmp_path):
    noise = Unstable("m", "noise")
    analyzer.outcomes = [noise, noise]
    scenario = WarmScenario(model="m", state="warm", concurrency=(1, 8))
    async with connected(analyzer.served) as fleet:
        program = Program(tmp_path)
        found, failed = await measure_warm(fleet, program, scenario, {}, EFFORT, lambda _: None)
    assert [one.concurrency for one in found] == [8]
    assert failed == [noise]


async def test_a_failing_tool_is_told(analyzer, tmp_path):
    analyzer.outcomes = [AnalyzerFailed("m", 99, "words")]
    _, (failed,) = await measured(analyzer, tmp_path)
    assert "words" in str(failed)


async def test_figures_that_the_server_did_not_count_are_not_believed(analyzer, tmp_path):
    analyzer.loses = 1
    found, (failed,) = await measured(analyzer, tmp_path)
    assert found == []
    assert "100 requests of 1 rows were measured, and the server counted 99" in str(failed)


async def test_input_is_made_from_the_configuration():
    async with connected(imitation("m")) as fleet:
        data = await input_data(fleet, WarmScenario(model="m", state="warm", texts=("one", "two")))
    assert [list(row) for row in data["data"]] == [["x"], ["x"]]


async def test_input_is_taken_from_the_file_where_there_is_one(tmp_path):
    path = tmp_path / "in.json"
    path.write_text('{"data": [{"x": [1.0, 2.0]}]}')
    scenario = WarmScenario(model="m", state="warm", input_data=path)
    async with connected(imitation("m")) as fleet:
        assert await input_data(fleet, scenario) == {"data": [{"x": [1.0, 2.0]}]}


async def test_shapes_that_do_not_fit_are_bad_input():
    scenario = WarmScenario(model="m", state="warm", shapes={"x": (7,)})
    async with connected(imitation("m")) as fleet:
        with pytest.raises(InvalidSpec, match="does not fit"):
            await input_data(fleet, scenario)
