"""The launcher's side of the guard, with a pretended server."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import psutil
import pytest

from tests.launchers.processes import LONG_S, gone
from tritonfleet.launchers.process import GuardedProcess, Order

PATIENT = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture
async def start(tmp_path):
    running = []

    async def start(script: str, **environment: str) -> GuardedProcess:
        order = Order(
            argv=[sys.executable, "-c", script],
            env={**os.environ, **environment},
            cwd=str(tmp_path),
            shared_memory_prefix="",
        )
        with (tmp_path / "lock").open("ab") as lock:
            running.append(await GuardedProcess.start(order, tmp_path / "log", lock.fileno()))
        return running[-1]

    yield start
    for process in running:
        await process.stop(0)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("", 0),
        ("raise SystemExit(5)", 5),
        ("import os; os.kill(os.getpid(), 11)", -signal.SIGSEGV),
    ],
)
async def test_status_is_the_one_of_the_server(start, script, status):
    process = await start(script)
    assert await process.wait() == status
    assert process.poll() == status


async def test_everybody_may_wait_and_one_who_leaves_disturbs_nobody(start):
    process = await start(PATIENT)
    waiters = [asyncio.ensure_future(process.wait()) for _ in range(3)]
    await asyncio.wait(waiters, timeout=0)
    waiters[0].cancel()
    os.kill(process.pid, signal.SIGKILL)
    assert await asyncio.gather(*waiters[1:]) == [-signal.SIGKILL] * 2


async def test_it_runs_until_it_is_stopped(start):
    process = await start(PATIENT)
    assert process.poll() is None
    await process.stop(LONG_S)
    assert process.poll() == -signal.SIGTERM
    assert gone([process.pid])


async def test_a_start_that_is_given_up_leaves_nothing(start):
    def children():
        return {child.pid for child in psutil.Process().children(recursive=True)}

    before = children()
    starting = asyncio.ensure_future(start(PATIENT))
    await asyncio.sleep(0)  # it runs until it has to wait for its guard
    begun = children() - before
    assert begun
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert gone(begun)


async def test_stopping_what_has_ended_is_harmless(start):
    process = await start("")
    await process.wait()
    await process.stop(LONG_S)
    await process.stop(0)
    assert process.poll() == 0


async def test_output_goes_to_the_log_behind_what_is_there(start, tmp_path):
    (tmp_path / "log").write_text("earlier\n")
    process = await start("import sys; print('out'); print('err', file=sys.stderr)")
    await process.wait()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "earlier"
    assert set(lines[1:]) == {"out", "err"}


async def test_the_environment_is_the_given_one_and_nothing_of_it_is_shown(start, tmp_path):
    process = await start("import os; print(os.environ['SECRET'])", SECRET="sesame")
    assert "sesame" not in " ".join(psutil.Process(process._guard.pid).cmdline())
    await process.wait()
    assert (tmp_path / "log").read_text() == "sesame\n"


async def test_a_killed_guard_takes_the_server_along(start):
    process = await start(PATIENT)
    process._guard.kill()
    assert await process.wait() == -signal.SIGKILL
    assert gone([process.pid])


async def test_ctrl_c_in_the_terminal_does_not_reach_the_server(start):
    process = await start(PATIENT)
    assert os.getsid(process.pid) != os.getsid(0)
    assert os.getpgid(process.pid) != os.getpgid(0)
