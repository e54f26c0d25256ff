"""Keeps two launchers from running one server out of the same folder."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from tritonfleet.errors import LauncherUnavailable

# A predecessor whose launcher was killed needs this long to drain and end.
_PREDECESSOR_S = 20.0
_LOCK_POLL_S = 0.1


@contextlib.asynccontextmanager
async def locked(folder: Path, launcher: str, server: str) -> AsyncIterator[int]:
    """The lock's descriptor; LauncherUnavailable when a server of that folder keeps running.

    Whoever inherits the descriptor holds the lock as well.
    """
    with _open(folder) as file:
        deadline = time.monotonic() + _PREDECESSOR_S
        while not try_lock(file.fileno()):
            if time.monotonic() > deadline:
                raise LauncherUnavailable(
                    launcher,
                    f"a server '{server}' already runs from {folder}",
                    "Stop it, or choose another state_dir.",
                )
            await asyncio.sleep(_LOCK_POLL_S)
        yield file.fileno()


def _open(folder: Path) -> BinaryIO:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "lock").open("ab")


def try_lock(descriptor: int) -> bool:
    """Whether an open file, or folder, is now locked by whoever has this descriptor."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
