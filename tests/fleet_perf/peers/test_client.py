from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from fleet_perf.peers import client as module
from fleet_perf.peers.client import Client, RequestFailed
from fleet_perf.peers.processes import ProcessTree
from tests.fleet_perf.peers.imitation import JOB, Imitation, asking
from tritonfleet.errors import ServerExited, Unstable


async def test_a_reply_says_whether_the_model_was_absent(tmp_path):
    async with asking(Imitation(), tmp_path) as client:
        replies = await client.must_answer(["a", "a", "b", "c", "a"])
    assert [reply.absent for reply in replies] == [True, False, True, True, True]
    assert all(reply.latency_s > 0 for reply in replies)


async def test_several_clients_share_one_list(tmp_path):
    system = Imitation()
    async with asking(system, tmp_path) as client:
        replies = await client.ask_all(list("abcabc"), clients=3)
    assert sorted(reply.model for reply in replies) == sorted(system.asked) == list("aabbcc")


async def test_an_error_is_a_reply_and_no_measurement(tmp_path):
    async with asking(Imitation(failing={"b"}), tmp_path) as client:
        assert (await client.ask("b")).error == '500 {"detail": "no"}'
        with pytest.raises(RequestFailed, match="imitation failed on b: 500"):
            await client.must_answer(["a", "b"])


async def test_nobody_there_is_a_reply_too(tmp_path):
    async with asking(Imitation(), tmp_path) as client:
        nowhere = replace(client.running, url="http://127.0.0.1:9")
    async with Client(nowhere, JOB) as lost:
        assert "ClientConnectorError" in ((await lost.ask("a")).error or "")


@pytest.fixture
def ended():
    """A process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


async def test_a_program_that_ends_instead_of_answering_leaves_its_last_words(tmp_path, ended):
    (tmp_path / "output.log").write_text("no such option\n")
    async with asking(Imitation(failing={"a"}), tmp_path) as client:
        client.running = replace(client.running, tree=ProcessTree(ended))
        with pytest.raises(ServerExited, match="no such option"):
            await client.until_answers("a", tmp_path)


async def test_a_program_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.0)
    async with asking(Imitation(failing={"a"}), tmp_path) as client:
        with pytest.raises(Unstable, match="does not answer"):
            await client.until_answers("a", tmp_path)
