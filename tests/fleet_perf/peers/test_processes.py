from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from fleet_perf.peers import processes
from fleet_perf.peers.processes import ProcessTree, last_words, started
from tests.serving import until

CHILD = "import time; print('ready', flush=True); time.sleep(600)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


async def test_the_end_of_the_block_is_the_end_of_the_program_and_its_children(tmp_path):
    async with started([sys.executable, "-c", PARENT], os.environ, tmp_path) as tree:
        until(lambda: "ready" in last_words(tmp_path))
        found = tree.processes()
        assert len(found) == 2
    assert not any(process.is_running() for process in found)
    assert tree.processes() == []


async def test_a_program_that_ignores_the_request_to_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.1)
    async with started([sys.executable, "-c", STUBBORN + CHILD], os.environ, tmp_path) as tree:
        until(lambda: "ready" in last_words(tmp_path))
    assert not psutil.pid_exists(tree.pid)


def test_the_tree_is_summed_up():
    own, mine = ProcessTree(os.getpid()), psutil.Process()
    assert own.rss_bytes() >= mine.memory_info().rss * 0.9
    assert 0 < own.pss_bytes() <= own.rss_bytes()


def test_cpu_time_of_ended_children_still_counts():
    tree = ProcessTree(os.getpid())
    before = tree.cpu_s()
    subprocess.run([sys.executable, "-c", "for _ in range(10**7): pass"], check=True)
    assert tree.cpu_s() - before > 0.05


def test_nothing_is_left_of_a_process_that_has_ended():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    gone = ProcessTree(process.pid)
    assert (gone.processes(), gone.cpu_s(), gone.pss_bytes()) == ([], 0, 0)
    assert gone.named("anything") is None


def test_a_process_is_found_by_its_name(tmp_path):
    process = subprocess.Popen(["sleep", "600"])
    try:
        found = ProcessTree(os.getpid()).named("sleep")
        assert found is not None
        assert found.pid == process.pid
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("text", "words"), [(None, ""), ("a\nb\nc\n", "b\nc")])
def test_the_last_words_are_the_end_of_the_output(tmp_path, text, words):
    if text is not None:
        (tmp_path / "output.log").write_text(text)
    assert last_words(tmp_path, lines=2) == words
