from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fleet_perf.peers.systems import FLEET, LITSERVE, NATIVE, PYTHON, RAY, _path, all_systems
from tritonfleet.gateway.envoy.plan import RESIDENCY_HEADER

ROW = [3, 1, 4]


@pytest.mark.parametrize("dialect", [FLEET, LITSERVE, RAY])
def test_every_request_names_its_model_and_carries_the_row(dialect):
    request = dialect.request("m7", ROW)
    assert "m7" in f"{request.path}{request.body.decode()}{request.headers}"
    assert "[3, 1, 4]" in request.body.decode()
    json.loads(request.body)


def test_ours_is_the_open_inference_protocol_untouched():
    request = FLEET.request("m7", ROW)
    assert request.path == "/v2/models/m7/infer"
    assert json.loads(request.body) == {
        "inputs": [{"name": "ids", "shape": [1, 3], "datatype": "INT64", "data": ROW}]
    }


def test_each_tells_in_its_own_way_that_a_model_was_absent():
    assert FLEET.was_absent({RESIDENCY_HEADER: "cold"}, b"")
    assert not FLEET.was_absent({RESIDENCY_HEADER: "warm"}, b"")
    for dialect in (LITSERVE, RAY):
        assert dialect.was_absent({}, b'{"opened": true}')
        assert not dialect.was_absent({}, b'{"opened": false}')


def test_two_are_ours_and_every_peer_is_pinned():
    systems = all_systems()
    assert {name for name, system in systems.items() if system.ours} == {NATIVE, PYTHON}
    for system in systems.values():
        if not system.ours:
            assert all("==" in requirement for requirement in system.requirements)


def test_haproxys_files_stay_in_the_private_folder(tmp_path):
    environment = all_systems()["ray-haproxy"].environment(tmp_path)
    files = [value for value in environment.values() if "/" in value]
    assert len(files) == 4
    assert all(value.startswith(str(tmp_path)) for value in files)


def test_a_peers_program_sees_its_own_package_of_ours_and_nothing_installed_beside_it(tmp_path):
    environment = _path(tmp_path)
    assert _path(tmp_path) == environment, "a second start finds the link in place"
    assert [path.name for path in Path(environment["PYTHONPATH"]).iterdir()] == ["fleet_perf"]
    subprocess.run(
        [sys.executable, "-S", "-c", "import fleet_perf.peers.apps"], env=environment, check=True
    )
