"""The fleet to measure: one that runs, or one that is started for the occasion.

It is started as a process of its own, the way anybody starts it: client and gateway in one process
would share an interpreter, and each would wait for the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet_perf.fleet import reachable
from tritonfleet.errors import ServerExited, ServerTimeout
from tritonfleet.talk import ADDRESSES_NAME, Addresses, published_addresses

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
_POLL_S = 0.05
_TAIL_LINES = 20
# What the console script `tritonfleet` does, with this very interpreter.
_MAIN = "from tritonfleet.cli import main; main()"


@dataclass(frozen=True, slots=True)
class StartedFleet(Addresses):
    """Where a fleet that we have started listens, and its process."""

    pid: int


@contextlib.asynccontextmanager
async def started_fleet(
    fleet_file: Path,
    repository: Path,
    state_dir: Path,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[StartedFleet]:
    """A fleet on ports of its own choice, for as long as the block lasts.

    ``environment`` comes on top of our own.

    Raises ServerExited with its last words when it does not come up, ServerTimeout when it takes
    too long.
    """
    started_at = time.time()
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _MAIN, "serve", "--fleet", str(fleet_file),
            "--repository", str(repository), "--state-dir", str(state_dir),
            "--http-port", "0", "--grpc-port", "0", "--control-port", "0",
            env={**os.environ, **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches us; we stop it in good order
        )  # fmt: skip
        try:
            found = await _until_up(process, state_dir / ADDRESSES_NAME, started_at)
            yield StartedFleet(found.control, found.gateway, found.grpc, process.pid)
        except _Ended:
            output.seek(0)
            lines = output.read().decode(errors="replace").splitlines()
            tail = "\n".join(lines[-_TAIL_LINES:])
            raise ServerExited("tritonfleet serve", process.returncode or 0, tail) from None
        finally:
            await _stop(process)


class _Ended(Exception):
    """The process ended before it answered."""


async def _until_up(
    process: asyncio.subprocess.Process, addresses_file: Path, started_at: float
) -> Addresses:
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while asyncio.get_running_loop().time() < deadline:
        if process.returncode is not None:
            raise _Ended
        addresses = _read(addresses_file, started_at)
        if addresses is not None and await reachable(addresses.control):
            return addresses
        await asyncio.sleep(_POLL_S)  # it writes one file, and has nothing one could wait for
    raise ServerTimeout("tritonfleet serve", "start", START_TIMEOUT_S)


def _read(path: Path, since: float) -> Addresses | None:
    """What the fleet wrote; None while there is nothing, or only what an earlier one left."""
    try:
        if path.stat().st_mtime < since:
            return None
    except OSError:
        return None
    return published_addresses(path.parent)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
