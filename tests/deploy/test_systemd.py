"""The systemd unit, as systemd itself reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tritonfleet.settings import Settings, resolve_settings

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "tritonfleet.service"
ANALYZE = shutil.which("systemd-analyze")
EXPOSURE = re.compile(r"Overall exposure level for \S+: (\d+\.\d+)")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze on this machine")


@pytest.fixture
def installed(tmp_path):
    """The unit, with a program that this machine has."""
    unit = tmp_path / UNIT.name
    text = re.sub(r"^ExecStart=.*", "ExecStart=/bin/true", UNIT.read_text(), flags=re.M)
    unit.write_text(text)
    drop_ins = tmp_path / f"{UNIT.name}.d"
    drop_ins.mkdir()
    shutil.copy(FOLDER / "tritonfleet-docker.conf", drop_ins / "docker.conf")
    return unit


def analyze(*arguments):
    command = [ANALYZE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def values(key):
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), flags=re.M)


@needs_systemd
def test_systemd_understands_every_line(installed):
    done = analyze("verify", "--man=no", "--recursive-errors=no", installed)
    complaints = [line for line in done.stderr.splitlines() if installed.name in line]
    # Docker's own unit may be missing where the tests run.
    assert [line for line in complaints if "docker.service not found" not in line] == []


@needs_systemd
def test_the_service_is_little_exposed(installed):
    done = analyze("security", "--offline=yes", installed)
    found = EXPOSURE.search(done.stdout)
    if found is None:
        pytest.skip(f"this systemd judges no unit that is not installed: {done.stderr}")
    assert float(found[1]) <= 2.5


def test_a_fleet_may_stop_in_its_own_time():
    settings = Settings()
    [timeout_s] = values("TimeoutStopSec")
    assert float(timeout_s) > settings.stop_grace_s + settings.drain_timeout_s
    assert values("KillMode") == ["mixed"]


def test_every_setting_of_the_unit_and_of_the_example_is_one(monkeypatch):
    example = (FOLDER / "environment.example").read_text()
    lines = [*values("Environment"), *re.findall(r"^#?(TRITONFLEET_\w+=.*)$", example, re.M)]
    assert len(lines) > 6
    for line in lines:
        name, _, value = line.partition("=")
        field = name.removeprefix("TRITONFLEET_").lower()
        assert field in Settings.model_fields or field == "fleet", name
        monkeypatch.setenv(name, value)
    found = resolve_settings(Settings())
    assert found.state_dir == Path("/var/lib/tritonfleet/state")


def test_the_user_of_the_service_is_the_one_that_is_made():
    [line] = re.findall(r"^u (\S+)", (FOLDER / "tritonfleet.sysusers").read_text(), re.M)
    assert values("User") == values("Group") == [line]


def test_docker_is_not_asked_for_by_those_who_do_not_use_it():
    assert values("Requires") == []
    assert values("SupplementaryGroups") == []
    assert "SupplementaryGroups=docker" in (FOLDER / "tritonfleet-docker.conf").read_text()
