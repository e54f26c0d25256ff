from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fleet_perf.gateway import cli
from fleet_perf.gateway.churn import ChurnEffort
from fleet_perf.gateway.cold import ColdEffort
from fleet_perf.gateway.config_scale import ScaleEffort
from fleet_perf.gateway.faults import FaultsEffort
from fleet_perf.gateway.warm import WarmEffort, WarmFindings
from fleet_perf.install import Program
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

FOUND = {
    "warm": WarmFindings([cell([run()], [run()])]),
    "cold": cold_findings(cold_cell([0.01])),
    "churn": churn_findings(churn_run()),
    "faults": fault_findings(fault()),
    "config-scale": scale_findings(10),
}


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    """Runs a part on results that are made up; gives its status, its output and its effort."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRITONFLEET_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(cli.install, "find_or_install", lambda *_: Program(tmp_path / "tool"))
    efforts = []

    def invoke(part, *arguments, found=None):
        async def measured(*given):
            assert given[-2].is_dir()  # the folder
            efforts.append(given[-3])
            return found or FOUND[part]

        monkeypatch.setattr(cli, f"measure_{part.replace('-', '_')}", measured)
        status = CliRunner().invoke(cli.bench_gateway, [part, *arguments], standalone_mode=False)
        assert status.exception is None, status.exception
        return status.return_value, status.stdout, efforts[-1]

    return invoke


@pytest.mark.parametrize(
    ("part", "effort"),
    [
        ("warm", WarmEffort()),
        ("cold", ColdEffort()),
        ("churn", ChurnEffort()),
        ("faults", FaultsEffort()),
        ("config-scale", ScaleEffort()),
    ],
)
def test_every_part_leaves_its_results(invoke, tmp_path, part, effort):
    status, output, used = invoke(part)
    assert (status, used) == (0, effort)
    assert "Targets" in output
    assert len(list((tmp_path / "perf" / "results").glob(f"gateway-{part}-*/results.md"))) == 1


def test_options_choose_cells_lengths_and_victims(invoke):
    warm = invoke("warm", "--quick", "--model", "big", "--pairs", "7")[2]
    assert (warm.models, warm.pairs, warm.window_ms) == (("big",), 7, WarmEffort.quick().window_ms)
    assert invoke("cold", "--pairs", "3")[2] == ColdEffort(pairs=3)
    churn = invoke("churn", "--seconds", "600", "--pattern", "zipf", "--clients", "2")[2]
    assert churn == ChurnEffort(seconds=600.0, clients=2, patterns=("zipf",))
    assert invoke("config-scale", "--models", "20")[2] == ScaleEffort(sizes=(20,))
    faults = invoke("faults", "--victim", "brain", "--repeats", "2")[2]
    assert faults == FaultsEffort(victims=("brain",), repeats=2)


def test_a_missed_target_exits_with_1(invoke):
    assert invoke("cold", found=cold_findings(cold_cell([0.02], [0.01])))[0] == 1


def test_json_is_all_that_standard_output_has(invoke, tmp_path):
    _, output, _ = invoke("churn", "--json", "--output", "here")
    assert json.loads(output) == json.loads((tmp_path / "here" / "results.json").read_text())
