"""What a system costs this machine: the CPU time and the memory of all its processes.

The same yardstick for everybody: the process that was started and everything below it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")
STOP_TIMEOUT_S = 30.0
_KILL_TIMEOUT_S = 5.0


class ProcessTree:
    """A process and its descendants, looked up anew each time."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def processes(self) -> list[psutil.Process]:
        """All that run now; none when the first has ended."""
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_s(self) -> float:
        """CPU seconds since the start, of ended processes, too, once their parent has noticed."""
        return sum(self.cpu_s_by_name().values())

    def cpu_s_by_name(self) -> dict[str, float]:
        """The same for each program."""
        spent: dict[str, float] = defaultdict(float)
        for name, times in _each(self.processes(), _name_and_times):
            # user, system, and the same of children that have ended
            spent[name] += sum(times[:4])
        return dict(spent)

    def pss_bytes(self) -> int:
        """Memory, with pages that several processes share counted in proportion."""
        return sum(full.pss for full in _each(self.processes(), psutil.Process.memory_full_info))

    def rss_bytes(self) -> int:
        """Memory, with shared pages counted in full, for every process that maps them."""
        return sum(info.rss for info in _each(self.processes(), psutil.Process.memory_info))

    def named(self, name: str) -> ProcessTree | None:
        """The first process of that name and what is below it."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.name() == name:
                    return ProcessTree(process.pid)
        return None


def _name_and_times(process: psutil.Process) -> tuple[str, Sequence[float]]:
    return process.name(), process.cpu_times()


def _each(processes: Sequence[psutil.Process], read: Callable[[psutil.Process], T]) -> Iterator[T]:
    for process in processes:
        with contextlib.suppress(psutil.Error):  # ended since
            yield read(process)


@contextlib.asynccontextmanager
async def started(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> AsyncIterator[ProcessTree]:
    """A program and, when the block ends, the end of it and of all that it has started.

    What it writes goes to ``output.log`` in its folder.
    """
    process = _start(command, environment, folder)
    tree = ProcessTree(process.pid)
    try:
        yield tree
    finally:
        await asyncio.to_thread(_stop, process, tree)


def _start(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    with (folder / "output.log").open("ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches us; we stop it in good order
        )


def _stop(process: subprocess.Popen[bytes], tree: ProcessTree) -> None:
    known = tree.processes()
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    # Helpers that outlive their parent are no longer below it, so they were noted before.
    _kill({*known, *tree.processes()})
    process.wait()


def _kill(processes: set[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):  # psutil never kills a process of a reused id
            process.kill()
    psutil.wait_procs(processes, _KILL_TIMEOUT_S)


def last_words(folder: Path, lines: int = 20) -> str:
    """The end of what a program started in this folder has written."""
    try:
        written = (folder / "output.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(written.splitlines()[-lines:])
