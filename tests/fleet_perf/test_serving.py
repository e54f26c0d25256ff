from __future__ import annotations

import os

import pytest

from fleet_perf import serving
from fleet_perf.serving import started_fleet
from tests.fleet_perf.imitation import connected, imitation
from tritonfleet.errors import ServerExited
from tritonfleet.talk import Addresses


async def test_a_fleet_that_cannot_start_leaves_its_last_words(tmp_path):
    with pytest.raises(ServerExited, match=r"none\.yaml"):
        async with started_fleet(tmp_path / "none.yaml", tmp_path, tmp_path):
            pytest.fail("there is no such fleet")


async def test_the_fleet_is_stopped_with_the_block(tmp_path, monkeypatch):
    async with connected(imitation("m")) as fleet:
        # In place of the fleet: a process that tells an address and waits to be stopped.
        monkeypatch.setattr(
            serving,
            "_MAIN",
            "import json, os, pathlib, signal, sys\n"
            f"told = {{'control': {fleet.control!r}, 'gateway': str(os.getpid()), 'grpc': 'h:1'}}\n"
            f"pathlib.Path({str(tmp_path)!r}, 'control.json').write_text(json.dumps(told))\n"
            "signal.pause()\n",
        )
        async with started_fleet(tmp_path / "f.yaml", tmp_path, tmp_path) as addresses:
            os.kill(int(addresses.gateway), 0)
            assert addresses.control == fleet.control
        with pytest.raises(ProcessLookupError):
            os.kill(int(addresses.gateway), 0)


def test_what_an_earlier_fleet_left_is_not_believed(tmp_path):
    file = tmp_path / "control.json"
    file.write_text('{"control": "http://c", "gateway": "http://g", "grpc": "g:1"}')
    written = file.stat().st_mtime
    assert serving._read(file, written - 1) == Addresses("http://c", "http://g", "g:1")
    assert serving._read(file, written + 1) is None


@pytest.mark.parametrize("text", ["", "{", '{"control": "http://c"}'])
def test_half_a_file_is_none(tmp_path, text):
    (tmp_path / "control.json").write_text(text)
    assert serving._read(tmp_path / "control.json", 0.0) is None
