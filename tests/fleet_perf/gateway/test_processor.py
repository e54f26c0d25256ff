from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from fleet_perf.gateway.processor import cpu_ns, rss_bytes
from tritonfleet.errors import Unstable


@pytest.fixture
def ended():
    """A process that was and is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def busy(rounds: int = 200_000) -> int:
    return sum(number * number for number in range(rounds))


def test_the_time_of_every_thread_counts():
    before, done, release = cpu_ns(os.getpid()), threading.Event(), threading.Event()

    def work():
        busy()
        done.set()
        release.wait()  # a thread that ends takes its time with it

    thread = threading.Thread(target=work)
    thread.start()
    done.wait()
    spent = cpu_ns(os.getpid()) - before
    release.set()
    thread.join()
    assert spent > 1_000_000


def test_time_never_runs_backwards():
    first = cpu_ns(os.getpid())
    busy()
    assert cpu_ns(os.getpid()) > first


def test_a_process_that_has_ended_spoils_a_measurement(ended):
    with pytest.raises(Unstable, match="it has ended"):
        cpu_ns(ended)


def test_memory_of_a_process_that_has_ended_is_unknown(ended):
    assert rss_bytes(ended) is None
    assert (rss_bytes(os.getpid()) or 0) > 10_000_000
