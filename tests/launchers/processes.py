"""What is still running, and what is left in shared memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

LONG_S = 60.0
"""Generous: on a slow machine a test may take long, it may not fail."""


def gone(pids: Iterable[int]) -> bool:
    """Waits until all of them have ended; False when one has not after a long time."""
    alive = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            alive.append(psutil.Process(pid))
    deadline = time.monotonic() + LONG_S
    while alive and time.monotonic() < deadline:
        _, alive = psutil.wait_procs(alive, timeout=0.2)
        # A zombie has ended; whether anybody collects it is the container's business.
        alive = [process for process in alive if not _is_zombie(process)]
    return not alive


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def descendants(pid: int) -> list[int]:
    """Everything that a process has started, now."""
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def regions(prefix: str) -> list[str]:
    """The names in shared memory that begin so."""
    return [path.name for path in Path("/dev/shm").glob(f"{prefix}*")]


async def eventually(condition: Callable[[], bool]) -> bool:
    """Waits for what another process does on its own; False when it has not after a long time."""
    deadline = time.monotonic() + LONG_S
    while not (met := condition()) and time.monotonic() < deadline:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.005)
    return met
