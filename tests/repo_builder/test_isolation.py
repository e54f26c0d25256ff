from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from repo_builder.fork_server import ForkServer
from repo_builder.isolation import IsolatedCall, Outcome, Progress, first_ready
from tests.repo_builder import children
from tritonfleet.errors import ExportFailed, ParityFailed


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """With nothing heavy loaded."""
    log = tmp_path_factory.mktemp("server") / "log"
    with ForkServer(log, "repo_builder.isolation:run_child", ()) as running:
        yield running


@pytest.fixture
def run(server):
    """Runs a function to its end; gives its phases and its outcome."""

    def call(function: Any, argument: Any, log: Path) -> tuple[list[str], Outcome]:
        phases = []
        with IsolatedCall(server, "m", function, argument, log) as isolated:
            while True:
                event = isolated.next_event()
                if isinstance(event, Outcome):
                    return phases, event
                phases.append(event.phase)

    return call


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "m.log"


def test_the_value_and_the_phases_come_back(run, log):
    phases, outcome = run(children.doubled, 21, log)
    assert (phases, outcome) == (["thinking"], Outcome(42))


def test_what_is_printed_goes_to_the_log_and_nowhere_else(run, log, capfd):
    run(children.doubled, 1, log)
    assert {"noise on stdout", "noise from C"} <= set(log.read_text().splitlines())
    assert capfd.readouterr() == ("", "")


def test_our_own_errors_come_back_as_they_are(run, log):
    _, outcome = run(children.refused, None, log)
    assert isinstance(outcome.error, ParityFailed)
    assert str(outcome.error) == "m: the answer is wrong. Look again."


def test_a_foreign_error_is_told_in_one_line_by_its_root_cause(run, log):
    _, outcome = run(children.broken, None, log)
    assert isinstance(outcome.error, ExportFailed)
    assert outcome.error.cause == "KeyError: 'the real cause'"
    assert "Traceback" in log.read_text()


def test_an_exit_is_a_failure_that_quotes_the_end_of_the_log(run, log):
    _, outcome = run(children.exits, 3, log)
    assert isinstance(outcome.error, ExportFailed)
    assert outcome.error.cause == "the export process exited with status 3"
    assert "last words" in outcome.error.hint


def test_an_exit_with_status_zero_but_no_answer_is_a_failure_too(run, log):
    _, outcome = run(children.exits, 0, log)
    assert isinstance(outcome.error, ExportFailed)


def test_a_process_killed_by_the_kernel_is_told_about_memory(run, log):
    _, outcome = run(children.killed, None, log)
    assert isinstance(outcome.error, ExportFailed)
    assert outcome.error.cause == "the export process was killed by SIGKILL"
    assert "memory" in outcome.error.hint


def test_the_process_has_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it(run, log):
    _, outcome = run(children.group, None, log)
    pid, session = outcome.value
    assert pid == session != os.getsid(0)


def test_kill_ends_the_process_and_what_it_started(server, log, tmp_path):
    file = tmp_path / "grandchild"
    with IsolatedCall(server, "m", children.with_grandchild, str(file), log) as call:
        assert call.next_event() == Progress("waiting")
        grandchild = psutil.Process(int(file.read_text()))
    gone, _ = psutil.wait_procs([grandchild], timeout=30)
    assert gone or grandchild.status() == psutil.STATUS_ZOMBIE
    call.kill()  # harmless the second time


def test_of_several_calls_the_first_to_speak_is_heard(server, log, tmp_path):
    with (
        IsolatedCall(server, "a", children.with_grandchild, str(tmp_path / "g"), log) as a,
        IsolatedCall(server, "b", children.doubled, 2, log.with_name("b.log")) as b,
    ):
        heard: dict[str, Any] = {}
        while len(heard) < 2:
            call = first_ready([a, b])
            heard.setdefault(call.model, call.next_event())
        assert heard == {"a": Progress("waiting"), "b": Progress("thinking")}


@pytest.mark.parametrize(
    ("missing", "told"), [("torch.nn", True), ("torchvision", False), ("my_factory", False)]
)
def test_an_installation_that_only_serves_says_what_building_takes(run, log, missing, told):
    _, outcome = run(children.imports_what_is_not_there, missing, log)
    assert f"No module named '{missing}'" in str(outcome.error)
    assert ("pip install 'tritonfleet[build]'" in str(outcome.error)) == told
