from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fleet_perf.peers import cli
from fleet_perf.peers.job import NETWORKS, Effort
from tests.fleet_perf.peers.test_cycles import results as cycles_results
from tests.fleet_perf.peers.test_figures import system
from tests.fleet_perf.peers.test_results import GOOD, results


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a command on results that are made up; gives its status, its output and its order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRITONFLEET_STATE_DIR", str(tmp_path / "state"))
    orders = []

    def run(command, found, *arguments):
        async def measured(*order):
            orders.append(order)
            return found

        monkeypatch.setattr(cli, "compare", measured)
        monkeypatch.setattr(cli.memory, "run_cycles", measured)
        status = CliRunner().invoke(command, arguments, standalone_mode=False)
        assert status.exception is None
        return status.return_value, status.stdout, orders[-1]

    return run


def test_everything_is_compared_by_default(run, tmp_path):
    status, output, (order, *_) = run(cli.bench_peers, results(*GOOD))
    assert status == 0
    assert [one.name for one in order.systems] == list(cli.all_systems())
    assert order.effort == Effort()
    assert order.cache == tmp_path / "state" / "peers"
    assert "What is promised" in output
    assert len(list((tmp_path / "perf" / "results").glob("peers-*/results.json"))) == 1


def test_options_choose_systems_models_and_effort(run):
    arguments = ("--quick", "--network", "dense", "--system", "ray", "--system", "native")
    _, _, (order, *_) = run(cli.bench_peers, results(*GOOD), *arguments)
    assert [one.name for one in order.systems] == ["ray", "native"]
    assert order.job.network == NETWORKS["dense"]
    assert (order.quick, order.effort) == (True, Effort.quick())


def test_a_missed_bound_exits_with_1(run):
    slow = results(system("native", ours=True, speed=2), system("peer"))
    assert run(cli.bench_peers, slow)[0] == 1


def test_json_is_all_that_standard_output_has(run):
    _, output, _ = run(cli.bench_peers, results(*GOOD), "--json", "--output", "here")
    assert json.loads(output)["name"] == "peers"


def test_cycles_exit_with_1_when_memory_rises(run, tmp_path):
    flat, rising = cycles_results(*[1] * 10), cycles_results(*range(0, 10**8, 10**7))
    status, output, (chosen, job, cycles, *_) = run(cli.bench_cycles, flat, "--cycles", "30")
    assert (status, chosen.name, cycles) == (0, "native", 30)
    assert job.models == cli.CYCLE_MODELS
    assert "Flat" in output
    assert run(cli.bench_cycles, rising, "--backend", "python")[0] == 1
    assert len(list((tmp_path / "perf" / "results").glob("cycles-*/results.md"))) >= 1
