from __future__ import annotations

import faulthandler
import os
import signal

import pytest

from repo_builder.forked import run_forked
from tritonfleet.errors import ExportFailed, ParityFailed


def test_the_fork_finds_what_is_in_memory_and_gives_its_result_back():
    large = list(range(100_000))
    assert run_forked("m", "the fork", lambda: sum(large)) == sum(large)


def test_what_the_fork_changes_stays_there():
    facts = {"seen": 0}

    def change() -> int:
        facts["seen"] += 1
        return facts["seen"]

    assert run_forked("m", "the fork", change) == 1
    assert run_forked("m", "the fork", change) == 1


def test_an_error_of_ours_comes_back_as_it_is():
    def fail() -> None:
        raise ParityFailed("m", "it differs", "Look.")

    with pytest.raises(ParityFailed, match=r"m: it differs\. Look\."):
        run_forked("m", "the fork", fail)


def test_any_other_error_becomes_one_line():
    def fail() -> None:
        raise ZeroDivisionError("by nothing")

    with pytest.raises(ExportFailed, match="ZeroDivisionError: by nothing"):
        run_forked("m", "the fork", fail)


def test_a_fork_that_is_killed_is_told_with_the_signal_and_likely_reason():
    with pytest.raises(ExportFailed, match=r"the fork was killed by SIGKILL\. .*memory"):
        run_forked("m", "the fork", lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_fork_that_crashes_is_told():
    def crash() -> None:
        faulthandler.disable()  # pytest's, whose report would look like a failure of the tests
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(ExportFailed, match="the fork was killed by SIGSEGV"):
        run_forked("m", "the fork", crash)


def test_arithmetic_of_torch_does_not_wait_for_threads_that_are_gone():
    torch = pytest.importorskip("torch")
    square = torch.ones(512, 512)
    square @ square  # starts the worker threads, which no fork has
    found = run_forked("m", "the fork", lambda: float((square @ square)[0, 0]))
    assert found == 512.0
