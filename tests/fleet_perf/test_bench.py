"""The bench as a whole, with a real perf_analyzer and real tritonservers; no figure is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet_perf import analyzer, install
from fleet_perf.analyzer import Load
from fleet_perf.bench import Order, run_bench
from fleet_perf.fleet import RunningFleet, check_counters
from fleet_perf.inputs import analyzer_data, make_inputs
from fleet_perf.promises import RoundsOrder
from fleet_perf.scenarios import ScenarioFile
from tests.fleet_perf import tiny
from tests.fleet_perf.builders import config, tensor
from tests.fleet_perf.imitation import connected, imitation
from tritonfleet.errors import AnalyzerMissing, InvalidSpec
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.embedded import EmbeddedLauncher
from tritonfleet.server.client import TritonClient
from tritonfleet.settings import Settings
from tritonfleet.talk import FleetUnreachable

CHECKOUT_STATE = Path(__file__).parents[2] / ".tritonfleet"


@pytest.fixture(scope="session")
def program() -> install.Program:
    """The analyzer that `make bench` would use; fetched once for the checkout."""
    try:
        return install.find_or_install(CHECKOUT_STATE)
    except AnalyzerMissing as error:
        pytest.skip(str(error))


def scenarios(*entries: dict[str, object]) -> ScenarioFile:
    # Any spread counts as stable: what the machine does meanwhile is not under test.
    effort = {"repeats": 1, "window_ms": 200, "stability_percentage": 1000}
    return ScenarioFile.model_validate({"name": "n", "effort": effort, "scenarios": entries})


def nothing(_: str) -> None:
    pass


async def test_without_a_fleet_there_is_nothing_to_measure(tmp_path):
    order = Order(Settings(state_dir=tmp_path), control="http://127.0.0.1:1")
    with pytest.raises(FleetUnreachable):
        await run_bench(order, nothing, nothing)


async def test_a_mistake_in_the_last_scenario_shows_before_the_first_measurement(tmp_path):
    file = scenarios(
        {"model": "m", "state": "warm"}, {"model": "m", "state": "cold", "shapes": {"y": [1]}}
    )
    served = imitation("m")
    async with connected(served) as fleet:
        order = Order(
            Settings(state_dir=tmp_path),
            scenarios=(tmp_path / "s.yaml", file),
            control=fleet.control,
            gateway=fleet.gateway,
        )
        with pytest.raises(InvalidSpec, match="no input 'y'"):
            await run_bench(order, nothing, nothing)
    assert served.calls == []


@pytest.mark.perf
@pytest.mark.triton
async def test_the_analyzer_and_the_server_count_the_same(tmp_path, program):
    asked = config(tensor("x", "FP32", [4]), name=tiny.MODEL)
    data = analyzer_data([make_inputs(asked, variant=n) for n in range(2)], asked)
    options = LaunchOptions("s", tiny.repository(tmp_path / "repository"), tmp_path)
    server = await EmbeddedLauncher().start(options)
    client, url = TritonClient("s", server.endpoint), f"http://{server.endpoint.http}"
    try:
        await client.load(tiny.MODEL, timeout_s=60)
        load = Load(tiny.MODEL, 2, batch_size=4, window_ms=200, stability_percentage=1000)
        async with RunningFleet(url, url) as fleet:
            before = await fleet.counters(url, tiny.MODEL)
            found = await analyzer.run(program, load, server.endpoint.http, data)
            after = await fleet.counters(url, tiny.MODEL)
    finally:
        await client.close()
        await server.stop(5)
    check_counters(tiny.MODEL, before, after, found.requests, rows=4)
    assert found.requests > 0


@pytest.mark.perf
@pytest.mark.triton
async def test_a_fleet_is_started_measured_in_every_way_and_stopped(tmp_path, program, monkeypatch):
    monkeypatch.setenv(install.VARIABLE, str(program.path))
    file = scenarios(
        {"model": tiny.MODEL, "state": "warm", "concurrency": [2]},
        {"model": tiny.MODEL, "state": "cold", "samples": 1},
    )
    repository = tiny.repository(tmp_path / "repository")
    order = Order(
        Settings(repository=repository, state_dir=tmp_path / "state"),
        scenarios=(tmp_path / "s.yaml", file),
        rounds=RoundsOrder(requests=12, clients=3, cold_samples=1),
        control="http://127.0.0.1:1",
        serve=tiny.fleet_file(tmp_path),
    )
    results = await run_bench(order, nothing, nothing)
    assert [str(error) for error in results.failed] == []
    assert [one.concurrency for one in results.warm] == [2]
    assert results.cold[0].gateway.count == 1
    assert results.rounds is not None
    assert results.rounds.kept
    assert results.rounds.servers[0].whole is not None
    assert not (tmp_path / "state" / "control.json").exists()
