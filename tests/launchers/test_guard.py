"""The guard with pretended servers: small scripts that behave as badly as the test needs."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.launchers.processes import LONG_S, gone, regions
from tritonfleet.launchers import guard

DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(600)"
)
WITH_CHILD = f"""
import subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", {DEAF!r}], start_new_session=True, stdout=subprocess.PIPE
)
child.stdout.readline()
print("child", child.pid, flush=True)
time.sleep(600)
"""
PATIENT = "import time; print('up', flush=True); time.sleep(600)"


class Guarded:
    """A guard with its pretended server, and this test as the launcher."""

    def __init__(
        self, argv: list[str], orphan_grace_s: float = LONG_S, events_folder: str = ""
    ) -> None:
        self.prefix = f"tritonfleet-test-{secrets.token_hex(4)}_"
        order = {
            "argv": argv,
            "env": dict(os.environ),
            "cwd": "/",
            "shared_memory_prefix": self.prefix,
            "events_folder": events_folder,
            "orphan_grace_s": orphan_grace_s,
        }
        self.popen = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.say(json.dumps(order))
        self.server = int(self.popen.stdout.readline())

    def say(self, line: str) -> None:
        self.popen.stdin.write(f"{line}\n".encode())
        self.popen.stdin.flush()

    def log_line(self) -> str:
        return self.popen.stderr.readline().decode()

    def status(self) -> int:
        return self.popen.wait(LONG_S)

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait(LONG_S)
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            pipe.close()


@pytest.fixture
def guarded():
    running = []

    def start(script: str, **options) -> Guarded:
        running.append(Guarded([sys.executable, "-c", script], **options))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("", 0),
        ("raise SystemExit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
    ],
)
def test_the_status_of_the_server_is_told_as_a_shell_would(guarded, script, status):
    assert guarded(script).status() == status


def test_a_program_that_cannot_be_started_is_told_in_the_log():
    running = Guarded(["/nowhere/tritonserver"])
    try:
        assert "cannot start /nowhere/tritonserver" in running.log_line()
        assert running.status() == 127
    finally:
        running.close()


@pytest.mark.parametrize("script", ["", DEAF])
def test_the_socket_of_the_events_goes_with_the_server_and_with_the_launcher(
    guarded, tmp_path, script
):
    folder = tmp_path / "of one start"
    folder.mkdir()
    (folder / "events").touch()
    running = guarded(script, events_folder=str(folder), orphan_grace_s=0)
    running.popen.stdin.close()
    running.status()
    assert not folder.exists()


def test_no_folder_is_removed_when_none_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    guard.remove_folder("")
    guard.remove_folder(str(tmp_path / "nowhere"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_server_leaves_behind_is_ended_with_its_shared_memory(guarded):
    running = guarded(WITH_CHILD)
    child = int(running.log_line().split()[1])
    other = Path(f"/dev/shm/other-{running.prefix}x")
    try:
        for region in (Path(f"/dev/shm/{running.prefix}x"), other):
            region.write_bytes(b"x")
        os.kill(running.server, signal.SIGKILL)
        assert running.status() == 128 + signal.SIGKILL
        assert not psutil.pid_exists(child)
        assert regions(running.prefix) == []
        assert other.exists()
    finally:
        other.unlink()


def test_the_death_of_the_launcher_ends_everything(guarded):
    running = guarded(WITH_CHILD)
    child = int(running.log_line().split()[1])
    running.popen.stdin.close()
    assert running.status() == 128 + signal.SIGTERM
    assert not psutil.pid_exists(running.server)
    assert not psutil.pid_exists(child)


def test_an_orphaned_server_that_does_not_listen_is_killed_after_the_grace(guarded):
    running = guarded(DEAF, orphan_grace_s=0.1)
    assert running.log_line() == "up\n"
    running.popen.stdin.close()
    assert running.status() == 128 + signal.SIGKILL


def test_stop_asks_first(guarded):
    running = guarded(PATIENT)
    assert running.log_line() == "up\n"
    running.say(f"stop {LONG_S}")
    assert running.status() == 128 + signal.SIGTERM


def test_stop_kills_when_the_grace_is_over(guarded):
    running = guarded(DEAF)
    assert running.log_line() == "up\n"
    running.say("stop 0.1")
    assert running.status() == 128 + signal.SIGKILL


def test_a_second_stop_may_shorten_the_grace(guarded):
    running = guarded(DEAF)
    assert running.log_line() == "up\n"
    running.say(f"stop {LONG_S * 10}\nstop 0")
    assert running.status() == 128 + signal.SIGKILL


def test_terminating_the_guard_stops_the_server(guarded):
    running = guarded(PATIENT)
    assert running.log_line() == "up\n"
    running.popen.terminate()
    assert running.status() == 128 + signal.SIGTERM
    assert gone([running.server])


def test_killing_the_guard_kills_the_server(guarded):
    running = guarded(DEAF)
    assert running.log_line() == "up\n"
    running.popen.kill()
    assert gone([running.server])


def test_the_server_does_not_inherit_the_signals_that_python_ignores():
    running = Guarded(["/bin/grep", "SigIgn", "/proc/self/status"])
    try:
        ignored = int(running.log_line().split()[1], 16)
        assert not ignored & (1 << (signal.SIGPIPE - 1))
        assert running.status() == 0
    finally:
        running.close()


def test_the_server_inherits_no_descriptor_but_the_standard_three():
    # The fourth is the one that ls itself opens.
    running = Guarded(["/bin/ls", "/proc/self/fd"])
    try:
        assert [running.log_line().strip() for _ in range(4)] == ["0", "1", "2", "3"]
        assert running.status() == 0
        assert running.log_line() == ""
    finally:
        running.close()


def test_an_empty_prefix_removes_no_shared_memory():
    region = Path(f"/dev/shm/tritonfleet-test-{secrets.token_hex(4)}")
    region.touch()
    try:
        guard.remove_shared_memory("")
        assert region.exists()
    finally:
        region.unlink()
