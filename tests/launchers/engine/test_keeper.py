"""A keeper's decisions, with an engine that does as the test says; the clock stands still.

A real engine's keepers are seen through in tests/launchers/contract.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from tritonfleet.errors import EngineUnavailable
from tritonfleet.launchers.engine import keeper as keepers
from tritonfleet.launchers.engine.facts import OUT_OF_MEMORY, Container, Gone
from tritonfleet.launchers.engine.keeper import Keeper

LABEL = "io.tritonfleet.instance=tritonfleet-abc"
RUNNING = Container("id1", "tritonfleet-gpu0-1", "running", 0, 0, False, "", {})
AWAY = EngineUnavailable("unix:///x", "nobody listens there", "Start it.")


class PretendedEngine:
    """Plays a list of states; an exception among them is raised."""

    def __init__(self, *states: Container | Exception | None, statuses=(0,)) -> None:
        self.states, self.statuses = list(states), list(statuses)
        self.removed: list[str] = []
        self.stopped: list[tuple[str, float]] = []
        self.looked_for: list[dict[str, str]] = []

    def _next(self):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return state

    def find(self, labels):
        self.looked_for.append(labels)
        found = self._next()
        return [] if found is None else [found]

    def inspect(self, container):
        return self._next()

    def wait(self, container, timeout_s):
        status = self.statuses.pop(0)
        if isinstance(status, Exception):
            raise status
        return status

    def output(self, container, since):
        yield b"tritonserver says\n"

    def stop(self, container, grace_s):
        self.stopped.append((container, grace_s))

    def remove(self, container):
        self.removed.append(container)

    def close(self):
        pass


@pytest.fixture
def clock(monkeypatch):
    """Passes only when somebody sleeps."""
    now = [0.0]
    monkeypatch.setattr(keepers.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(keepers.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    return now


@pytest.fixture
def keep(monkeypatch, clock):
    """A keeper whose engine is the given one each time it connects; exceptions are raised."""

    def make(*engines, keep=False):
        left = list(engines)

        def connect(address):
            engine = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(engine, Exception):
                raise engine
            return engine

        monkeypatch.setattr(keepers.Engine, "connect", connect)
        return Keeper(
            argparse.Namespace(
                engine=None,
                label=LABEL,
                instance="tritonfleet-abc",
                since=None,
                grace=5.0,
                keep=keep,
            )
        )

    return make


def test_it_waits_for_its_container_and_removes_it_at_its_end(keep, capfdbinary):
    created = replace(RUNNING, status="created")
    ended = replace(RUNNING, status="exited")
    engine = PretendedEngine(None, created, RUNNING, ended, statuses=[3])
    assert keep(engine).watch() == 3
    assert engine.looked_for == [{"io.tritonfleet.instance": "tritonfleet-abc"}] * 3
    assert engine.removed == ["id1"]


def test_a_server_that_ran_out_of_memory_says_so_last(keep, capsys):
    ended = replace(RUNNING, status="exited", out_of_memory=True)
    assert keep(PretendedEngine(RUNNING, ended, statuses=[137])).watch() == 137
    assert capsys.readouterr().out.rstrip().endswith(OUT_OF_MEMORY)


def test_a_container_that_somebody_removes_has_been_killed(keep):
    assert keep(PretendedEngine(RUNNING, Gone(), statuses=[None])).watch() == 137


def test_told_to_end_it_stops_and_removes_the_container(keep):
    engine = PretendedEngine(RUNNING, replace(RUNNING, status="exited"))
    assert keep(engine).leave() == 0
    assert engine.stopped == [("id1", 5.0)]
    assert engine.removed == ["id1"]


def test_told_to_end_before_the_container_is_there_it_looks_once_more(keep):
    engine = PretendedEngine(None, replace(RUNNING, status="created"))
    assert keep(engine).leave() == 0
    assert engine.removed == ["id1"]
    assert engine.stopped == []


def test_told_to_end_without_a_container_there_is_nothing_to_do(keep):
    engine = PretendedEngine(None)
    assert keep(engine).leave() == 0
    assert engine.removed == []


def test_a_container_that_is_kept_is_left_as_it_is(keep):
    engine = PretendedEngine(RUNNING)
    assert keep(engine, keep=True).leave() == 0
    assert engine.stopped == engine.removed == []


def test_an_engine_that_comes_back_finds_the_keeper_watching(keep, capsys):
    before = PretendedEngine(RUNNING, statuses=[AWAY])
    after = PretendedEngine(replace(RUNNING, status="exited"), statuses=[7])
    assert keep(before, AWAY, AWAY, after).watch() == 7
    said = capsys.readouterr().out
    assert said.count("no container engine") == 1
    assert "the engine is back" in said
    assert after.removed == ["id1"]


def here(monkeypatch, *lives: bool) -> None:
    """Whether the server's process lives, each time that is asked."""
    left = list(lives)

    def server_pid(self):
        alive = left.pop(0) if len(left) > 1 else left[0]
        return os.getpid() if alive else None

    monkeypatch.setattr(Keeper, "_server_pid", server_pid)


def test_a_server_that_dies_while_the_engine_is_away_has_ended(keep, monkeypatch, clock):
    here(monkeypatch, True, True, True, False)
    assert keep(PretendedEngine(RUNNING, statuses=[AWAY]), AWAY).watch() == 137
    assert clock[0] < 60


def test_a_server_on_another_machine_is_not_taken_for_dead(keep, monkeypatch, clock):
    here(monkeypatch, False)
    before = PretendedEngine(RUNNING, statuses=[AWAY])
    after = PretendedEngine(replace(RUNNING, status="exited"), statuses=[0])
    assert keep(before, *[AWAY] * 100, after).watch() == 0
    assert clock[0] > 90


def test_an_engine_that_goes_away_before_the_container_was_seen_is_not_awaited_for_ever(
    keep, monkeypatch, clock
):
    here(monkeypatch, False)
    assert keep(AWAY).watch() == 137
    assert clock[0] < 60


def test_a_server_is_found_even_when_its_container_was_never_seen(keep):
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    server = ["tritonserver", "-c", script, "--id=tritonfleet-abc"]
    with subprocess.Popen(
        server, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        assert keep(AWAY).leave() == 137
        assert process.wait(10) == -signal.SIGTERM


def test_without_an_engine_the_server_is_ended_by_its_process(keep, monkeypatch, clock):
    here(monkeypatch, True, True, False)
    sent = []
    monkeypatch.setattr(keepers.os, "kill", lambda pid, number: sent.append((pid, number)))
    assert keep(AWAY).leave() == 137
    assert sent[0] == (os.getpid(), signal.SIGTERM)


def test_a_process_of_another_user_is_told_of(keep, monkeypatch, capsys):
    here(monkeypatch, True)

    def refuse(pid, number):
        raise PermissionError

    monkeypatch.setattr(keepers.os, "kill", refuse)
    assert keep(AWAY).leave() == 137
    assert "may still run" in capsys.readouterr().out
