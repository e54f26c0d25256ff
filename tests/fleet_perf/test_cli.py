from __future__ import annotations

import json
import os
import signal

import pytest

from fleet_perf import cli
from fleet_perf.results import Results
from tests.fleet_perf.test_report import ENVIRONMENT, rounds
from tritonfleet.cli import main
from tritonfleet.errors import Unstable

SCENARIO = "name: n\nscenarios: [{model: m, state: cold}]\n"


@pytest.fixture
def scenario(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    return "scenario.yaml"


@pytest.fixture
def found(monkeypatch):
    """What the bench is made to find, and the orders it has had."""
    outcome = Results("n", ENVIRONMENT)
    orders = []

    async def run_bench(order, say, warn):
        orders.append(order)
        return outcome

    monkeypatch.setattr(cli, "run_bench", run_bench)
    return outcome, orders


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    return int(caught.value.code or 0)


def test_good_results_exit_with_0_and_lie_where_they_were_wanted(scenario, found, tmp_path):
    assert status("--scenario", scenario, "--output", "here") == 0
    assert json.loads((tmp_path / "here" / "results.json").read_text())["name"] == "n"


def test_results_get_a_folder_of_their_own_by_default(scenario, found, tmp_path):
    assert status("--scenario", scenario) == 0
    (folder,) = (tmp_path / "perf" / "results").iterdir()
    assert (folder / "results.md").exists()


def test_what_could_not_be_measured_exits_with_1(scenario, found, capsys):
    found[0].failed.append(Unstable("m", "it was noisy"))
    assert status("--scenario", scenario) == 1
    assert "it was noisy" in capsys.readouterr().err


def test_a_broken_promise_exits_with_1(scenario, found):
    found[0].rounds = rounds(occupied=101)
    assert status("--round-robin", "10") == 1


def test_json_goes_to_standard_output_alone(scenario, found, capsys):
    assert status("--scenario", scenario, "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "n"


def test_a_round_robin_needs_no_scenario(scenario, found):
    assert status("--round-robin", "50", "--clients", "3") == 0
    (order,) = found[1]
    assert order.scenarios is None
    assert (order.rounds.requests, order.rounds.clients) == (50, 3)


def test_a_bad_scenario_exits_with_2(scenario, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("name: n\nscenarios: [{model: m, state: hot}]\n")
    assert status("--scenario", "bad.yaml") == 2
    assert "hot" in capsys.readouterr().err


def test_an_unknown_option_exits_with_2(scenario):
    assert status("--senario", scenario) == 2


def test_no_fleet_exits_with_1_and_says_how_to_start_one(scenario, capsys):
    assert status("--scenario", scenario, "--control", "http://127.0.0.1:1") == 1
    assert "tritonfleet serve" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_exits_with_130(scenario, monkeypatch, number):
    async def run_bench(order, say, warn):
        os.kill(os.getpid(), number)
        await cli.asyncio.Event().wait()

    monkeypatch.setattr(cli, "run_bench", run_bench)
    assert status("--scenario", scenario) == 130
