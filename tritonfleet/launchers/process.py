"""A tritonserver as a child of this process, by way of its guard.

Knows the guard's language, exit statuses and the log; not Triton.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tritonfleet.launchers import guard

_ORPHAN_GRACE_S = 5.0
# The guard only has to notice a death and wait for the kernel; beyond this it must be stuck.
_GUARD_MARGIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Order:
    """What the guard is to start, and what it has to clean up afterwards."""

    argv: Sequence[str] = field(repr=False)  # holds the admin secret
    env: Mapping[str, str] = field(repr=False)
    cwd: str
    shared_memory_prefix: str
    events_folder: str = ""
    """Of the socket on which its models tell of themselves."""
    orphan_grace_s: float = _ORPHAN_GRACE_S
    """How long requests in flight may take once this process has died."""


class GuardedProcess:
    """One running server with everything it starts; ends with this process at the latest."""

    def __init__(self, guard_process: subprocess.Popen[bytes], pid: int) -> None:
        self._guard, self.pid = guard_process, pid
        self._end: asyncio.Task[int] | None = None

    @classmethod
    async def start(cls, order: Order, log: Path, lock: int) -> GuardedProcess:
        """Starts the server, its output appended to ``log``.

        The guard inherits the descriptor ``lock``: what it locks stays locked until the server and
        all it started are gone, even when this process dies first.
        """
        process = _start_guard(log, lock)
        try:
            _say(process, json.dumps(asdict(order)))
            reports = await _reader(process)
            server = cls(process, int(await reports.readline() or 0))
        except BaseException:  # nobody would know of it
            process.kill()  # the kernel ends the server with it
            process.wait()
            raise
        server._end = asyncio.create_task(server._until_end(reports))
        return server

    def poll(self) -> int | None:
        """The server's exit status, negative for a signal; None until clean-up is done, too."""
        status = self._guard.poll()
        return 128 - status if status is not None and status > 128 else status

    async def wait(self) -> int:
        """The exit status, once the server and all it started have ended."""
        assert self._end
        return await asyncio.shield(self._end)

    async def stop(self, grace_s: float) -> None:
        """Ends the server, by force after ``grace_s`` seconds, and waits for it."""
        _say(self._guard, f"stop {grace_s:f}")
        try:
            await asyncio.wait_for(self.wait(), grace_s + _GUARD_MARGIN_S)
        except asyncio.TimeoutError:
            self._guard.kill()  # the kernel kills the server with it
            await self.wait()

    async def _until_end(self, reports: asyncio.StreamReader) -> int:
        await reports.read()  # to its end, which comes with the guard's
        self._guard.wait()
        if self._guard.stdin:
            self._guard.stdin.close()
        status = self.poll()
        assert status is not None
        return status


def _start_guard(log: Path, lock: int) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            bufsize=0,
            stdout=subprocess.PIPE,
            stderr=output,
            # In a session of its own: Ctrl-C in the terminal is for us, who drain the server
            # first; it must not reach the server directly.
            start_new_session=True,
            pass_fds=(lock,),
        )


def _say(process: subprocess.Popen[bytes], line: str) -> None:
    if process.stdin and not process.stdin.closed:
        with contextlib.suppress(BrokenPipeError):  # it has just ended, which wait() will tell
            process.stdin.write(f"{line}\n".encode())


async def _reader(process: subprocess.Popen[bytes]) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    return reader
