"""What a tritonserver on this machine and its models hold of the host's memory.

Models of the python backend, and of every backend written for it, run in processes of their own
("stubs"), so theirs can be told apart. Models of native backends live inside tritonserver and
cannot; those of ours tell of themselves (events.py). Nothing here talks to the server: it reads
/proc, in a few milliseconds; a container's processes are there as well, if it runs on this machine.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil

_STUB = "triton_python_backend_stub"
# .../<model>/<version>/<file>: the last such pair, for the repository's own path may hold others.
_MODEL_AND_VERSION = re.compile(r"^(?:.*/)?([^/]+)/\d+/")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton puts the regions
_RELEASE_SIGNAL = signal.SIGURG
"""What our ``onnxruntime`` backend listens for; a process that does not know of it ignores it."""


def model_of(arguments: list[str]) -> str | None:
    """The model that a process with this command line runs; None when it is no stub."""
    if len(arguments) < 3 or not arguments[0].endswith(_STUB):
        return None
    found = _MODEL_AND_VERSION.match(arguments[1])
    return found[1] if found else None


def model_processes(pid: int, model: str) -> tuple[int, ...]:
    """The processes of one model, one for each instance, under the tritonserver ``pid``.

    Empty when it is not loaded, lives inside tritonserver, or was loaded from files sent along
    with the load, which lie in a folder that does not bear its name.
    """
    return tuple(process.pid for process, _ in _stubs(pid, model))


def model_memory_bytes(pid: int, model: str) -> int | None:
    """Bytes that would be free without this model, all instances together.

    That is what its processes share with nobody, and the regions through which tritonserver hands
    them tensors, which grow with the largest and never shrink. While a new version replaces the
    old one both count. None when it cannot be told.
    """
    found = instance_memory_bytes(pid, model)
    return sum(found) if found else None


def instance_memory_bytes(pid: int, model: str) -> tuple[int, ...]:
    """The same for each instance's process; empty when it cannot be told."""
    return tuple(
        _private_bytes(process) + _region_bytes(pid, key) for process, key in _stubs(pid, model)
    )


def server_memory_bytes(pid: int) -> int | None:
    """Bytes that tritonserver and all its models hold, shared pages in proportion.

    None when there is no such process, or it is not ours to look into.
    """
    try:
        server = psutil.Process(pid)
        total: int = server.memory_full_info().pss
    except psutil.Error:
        return None
    for process in server.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def release_model_memory(pid: int, model: str) -> bool:
    """Makes the processes of a model that is being unloaded give back its memory at once.

    Send it after the unload and with nothing in flight. Triton lets a second pass before it even
    tells a model of its unloading; weights and arena of a model of our ``onnxruntime`` backend are
    gone some 15 ms after this instead, and only the bare process stays until the index says
    UNAVAILABLE. Models of other backends are not affected. Should a request come after all, the
    model opens its file again and answers. False when it has no process that could be told.
    """
    told = False
    for process, _ in _stubs(pid, model):
        with contextlib.suppress(psutil.Error):
            process.send_signal(_RELEASE_SIGNAL)
            told = True
    return told


def _stubs(pid: int, model: str) -> Iterator[tuple[psutil.Process, str]]:
    """The model's processes and the names of their shared-memory regions."""
    try:
        children = psutil.Process(pid).children()
    except psutil.Error:
        return
    for process in children:
        with contextlib.suppress(psutil.Error):
            arguments = process.cmdline()
            if model_of(arguments) == model:
                yield process, arguments[2]


def _private_bytes(process: psutil.Process) -> int:
    try:
        private: int = process.memory_full_info().uss
    except psutil.Error:
        return 0
    return private


def _region_bytes(pid: int, key: str) -> int:
    # Seen from within: the server may be in a container, with shared memory of its own.
    for folder in (Path(f"/proc/{pid}/root{_SHARED_MEMORY}"), _SHARED_MEMORY):
        with contextlib.suppress(OSError):
            return (folder / key).stat().st_blocks * 512
    return 0
