"""``tritonfleet doctor`` as its users call it, on the machine that the tests run on."""

from __future__ import annotations

import json
import socket

import pytest
from click.testing import CliRunner

from tritonfleet.doctor.checks import CHECKS
from tritonfleet.doctor.cli import doctor
from tritonfleet.errors import InvalidSpec

FLEET = """
servers: [{name: gpu0, capacity: 8GiB, launcher: container, container: {gpus: ["GPU-0000"]}}]
models: {m: {source: {kind: onnx, path: m.onnx}}}
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRITONFLEET_FLEET", raising=False)


@pytest.fixture
def fleet_file(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET)
    return str(file)


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield str(sock.getsockname()[1])


def run(*arguments):
    return CliRunner().invoke(doctor, arguments)


def told(*arguments):
    result = run("--json", *arguments)
    return result.exit_code, json.loads(result.stdout)


def test_a_machine_can_be_looked_at_before_there_is_a_fleet(tmp_path):
    status, document = told("--only", "cores", "--only", "limits", "--only", "repository")
    assert (status, document["healthy"]) == (0, True)
    assert [finding["check"] for finding in document["findings"]][-1] == "repository"


def test_no_check_breaks_on_this_machine():
    _, document = told()
    assert {finding["check"] for finding in document["findings"]} == set(CHECKS)
    for finding in document["findings"]:
        assert "could not be found out" not in finding["found"], finding


def test_a_failure_is_told_by_the_exit_status(taken):
    status, document = told("--only", "ports", "--http-port", taken)
    [gateway, *_] = document["findings"]
    assert (status, document["healthy"]) == (1, False)
    assert gateway["status"] == "failed"
    assert any("--http-port" in step for step in gateway["advice"])


def test_findings_say_what_to_do_in_lines_that_can_be_copied(taken):
    result = run("--only", "ports", "--http-port", taken, "--grpc-port", "0", "--control-port", "0")
    assert result.exit_code == 1
    assert "failed" in result.stdout
    assert "  stop it, or choose another with --http-port\n" in result.stdout


def test_a_fleet_file_decides_what_is_needed(fleet_file, monkeypatch):
    monkeypatch.setenv("PATH", "")  # whatever this machine has, here it has no nvidia-smi
    _, document = told("-f", fleet_file, "--only", "devices")
    assert [finding["status"] for finding in document["findings"]] == ["failed"]
    _, document = told("-f", fleet_file, "--launcher", "embedded", "--only", "devices")
    assert [finding["status"] for finding in document["findings"]] == ["not needed"]


def test_servers_may_be_attached(fleet_file, taken):
    here = f"gpu0=127.0.0.1:{taken},127.0.0.1:{taken}"
    status, document = told("-f", fleet_file, "--only", "attached", "--attach", here)
    assert status == 0
    assert [finding["status"] for finding in document["findings"]] == ["ok", "ok"]


def test_a_fleet_file_with_mistakes_is_reported_as_everywhere(tmp_path):
    (tmp_path / "bad.yaml").write_text("servers: []\n")
    result = run("-f", str(tmp_path / "bad.yaml"))
    assert isinstance(result.exception, InvalidSpec)


def test_a_check_of_no_such_name_is_refused_with_the_names_there_are():
    result = run("--only", "graphics")
    assert result.exit_code == 2
    assert "toolkit" in result.stderr
