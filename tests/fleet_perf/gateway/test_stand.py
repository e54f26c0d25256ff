from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

from fleet_perf.fleet import RunningFleet
from fleet_perf.gateway.stand import (
    BRAIN,
    ENVOY,
    PROGRAMS,
    TRITON,
    Stand,
    activator_requests,
    addresses_of,
    is_program,
    until_calm,
)
from fleet_perf.peers.processes import ProcessTree
from tritonfleet.errors import Unstable

STATUS = {
    "servers": [{"name": "host", "http": "h:1", "grpc": "h:2"}, {"name": "down"}],
    "activator": {"requests": 3},
}


class Told(RunningFleet):
    """A fleet of which only the status matters."""

    async def status(self):
        return STATUS


def stand(tmp_path, pid=-1) -> Stand:
    fleet = Told("http://control", "http://gateway:8000")
    return Stand(fleet, "gateway:8001", "host", ProcessTree(pid), tmp_path / "host.log")


def test_programs_are_known_by_their_names():
    brain = ["python", "-c", "from tritonfleet.brain_process import main; main()"]
    assert is_program(ENVOY, "envoy", ["/somewhere/envoy", "-c", "bootstrap.json"])
    assert is_program(TRITON, "tritonserver", ["tritonserver"])
    assert is_program(BRAIN, "python3.11", brain)
    assert not is_program(ENVOY, "python3.11", ["python", "guard.py", "/somewhere/envoy"])
    assert not is_program(BRAIN, "python3.11", ["python", "-c", "…", "serve", BRAIN])


async def test_addresses_are_those_of_the_named_server(tmp_path):
    assert stand(tmp_path).http == "gateway:8000"
    assert await stand(tmp_path).direct() == {"http": "h:1", "grpc": "h:2"}


@pytest.mark.parametrize("server", ["down", "unknown"])
def test_a_server_that_is_down_has_no_address(server):
    with pytest.raises(Unstable, match="it is down"):
        addresses_of(STATUS, server)


def test_requests_that_python_has_seen_are_told():
    assert activator_requests(STATUS) == 3


@contextlib.contextmanager
def sleeping(*words):
    process = subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE)
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_program_is_found_below_the_fleets_process(tmp_path, monkeypatch):
    monkeypatch.setattr("fleet_perf.gateway.stand.BRAIN_MODULE", "as-if-it-were-the-brain")
    with sleeping("as-if-it-were-the-brain") as pid:
        measured = stand(tmp_path, os.getpid())
        assert measured.pid(BRAIN) == pid
        assert measured.pids() == {BRAIN: pid}
    with pytest.raises(Unstable, match="brain is not running"):
        measured.pid(BRAIN)


def test_loads_and_unloads_are_read_from_the_log(tmp_path):
    (tmp_path / "host.log").write_text(
        "I successfully loaded 'a'\nI successfully unloaded 'a' version 1\n"
        "I successfully loaded 'b'\n"
    )
    assert stand(tmp_path).loads_and_unloads() == (2, 1)


async def test_a_complete_fleet_is_calm(tmp_path, monkeypatch):
    monkeypatch.setattr(Stand, "pids", lambda _: dict.fromkeys(PROGRAMS, 1))
    await until_calm(stand(tmp_path))


async def test_a_fleet_that_stays_incomplete_is_told(tmp_path):
    with pytest.raises(Unstable, match="not complete again after 0 s"):
        await until_calm(stand(tmp_path), timeout_s=0.0)
