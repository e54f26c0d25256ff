from __future__ import annotations

import os
import signal

import psutil
import pytest

from repo_builder.fork_server import ForkServer
from repo_builder.isolation import IsolatedCall, Outcome, Progress
from tests.repo_builder import children


@pytest.fixture
def server(tmp_path):
    with ForkServer(tmp_path / "server.log", "repo_builder.isolation:run_child", ()) as running:
        yield running


def answer(server, tmp_path) -> Outcome:
    with IsolatedCall(server, "m", children.doubled, 21, tmp_path / "m.log") as call:
        assert call.next_event() == Progress("thinking")
        event = call.next_event()
        assert isinstance(event, Outcome)
        return event


def has_ended(process: psutil.Process) -> bool:
    psutil.wait_procs([process], timeout=30)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def server_process(call: IsolatedCall) -> psutil.Process:
    return psutil.Process(call._fork.pid).parent()


def test_nothing_is_started_before_it_is_needed_and_nothing_is_left(tmp_path):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with ForkServer(tmp_path / "log", "repo_builder.isolation:run_child", ()) as server:
        assert {child.pid for child in psutil.Process().children(recursive=True)} == before
        with IsolatedCall(server, "m", children.with_grandchild, str(tmp_path / "g"),
                          tmp_path / "m.log") as call:  # fmt: skip
            assert call.next_event() == Progress("waiting")
            grandchild = psutil.Process(int((tmp_path / "g").read_text()))
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before
    assert has_ended(grandchild)


def test_all_forks_are_of_one_process(server, tmp_path):
    parents = []
    for name in "ab":
        with IsolatedCall(server, name, children.with_grandchild, str(tmp_path / name),
                          tmp_path / f"{name}.log") as call:  # fmt: skip
            assert call.next_event() == Progress("waiting")
            parents.append(server_process(call).pid)
    assert parents[0] == parents[1] != os.getpid()


def test_a_server_that_is_killed_takes_its_forks_along_and_the_next_call_has_a_new_one(
    server, tmp_path
):
    with IsolatedCall(server, "m", children.with_grandchild, str(tmp_path / "g"),
                      tmp_path / "m.log") as call:  # fmt: skip
        assert call.next_event() == Progress("waiting")
        grandchild = psutil.Process(int((tmp_path / "g").read_text()))
        server_process(call).send_signal(signal.SIGKILL)
        event = call.next_event()
        assert isinstance(event, Outcome)
        assert "was killed by SIGKILL" in str(event.error)
        assert has_ended(grandchild)
    assert answer(server, tmp_path) == Outcome(42)


def test_what_cannot_be_loaded_beforehand_is_no_reason_not_to_start(tmp_path):
    modules = ("no_such_module", "json")
    with ForkServer(tmp_path / "log", "repo_builder.isolation:run_child", modules) as server:
        assert answer(server, tmp_path) == Outcome(42)
