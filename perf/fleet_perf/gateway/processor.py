"""What one process of this machine has used: CPU time and memory, as the kernel counts them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from tritonfleet.errors import Unstable

_PROC = Path("/proc")


def cpu_ns(pid: int) -> int:
    """CPU nanoseconds of all threads of a process that run now; Unstable when it has ended.

    From the scheduler's own accounting: a request costs less than the ticks of ``/proc/PID/stat``
    can tell apart. A thread that ends takes its time with it, so this is for programs that keep
    theirs, as Envoy does.
    """
    try:
        threads = list((_PROC / str(pid) / "task").iterdir())
    except OSError as error:
        raise Unstable(f"process {pid}", "it has ended") from error
    return sum(_thread_ns(thread) for thread in threads)


def _thread_ns(thread: Path) -> int:
    with contextlib.suppress(OSError):  # ended since
        return int((thread / "schedstat").read_text(encoding="ascii").split()[0])
    return 0


def rss_bytes(pid: int) -> int | None:
    """Memory of one process, without its children; None when it has ended."""
    try:
        held: int = psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return None
    return held
