"""A virtual environment for each peer, made once, pinned, and away from everything of ours."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from fleet_perf.warm import Say
from tritonfleet.errors import PerfError

_DONE = "installed.txt"
_STEPS = ("Collecting ", "Downloading ", "Installing ")


class PeerMissing(PerfError):
    """A peer that cannot be installed here."""

    def __init__(self, peer: str, cause: str) -> None:
        super().__init__(peer, cause)
        self.peer, self.cause = peer, cause

    def __str__(self) -> str:
        return (
            f"{self.peer} cannot be installed: {self.cause.rstrip('.')}. "
            "Leave it out with --system, or make its package available to pip."
        )


def with_our_runtime(*requirements: str) -> tuple[str, ...]:
    """A peer's requirements, with the ONNX Runtime and the numpy that we run ourselves."""
    ours = ("onnxruntime", "numpy")
    return (*requirements, *(f"{name}=={version(name)}" for name in ours))


def interpreter(folder: Path, peer: str, requirements: Sequence[str], say: Say) -> Path:
    """The Python of a peer's environment, which is made if it is not there.

    Raises PeerMissing when pip cannot install what is required.
    """
    wanted = "\n".join((sys.version, *requirements))
    place = folder / f"{peer}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    python = place / "bin" / "python"
    if not (place / _DONE).exists():
        shutil.rmtree(place, ignore_errors=True)  # what an interrupted installation has left
        say(f"installing {peer} ({', '.join(requirements)}) in {place} …")
        _install(place, peer, python, requirements, say)
        (place / _DONE).write_text(_installed(python), encoding="utf-8")
    return python


def packages(python: Path) -> tuple[str, ...]:
    """All that is installed beside an interpreter, as ``name==version``."""
    return tuple((python.parent.parent / _DONE).read_text(encoding="utf-8").split())


def _install(place: Path, peer: str, python: Path, requirements: Sequence[str], say: Say) -> None:
    _run(peer, [sys.executable, "-m", "venv", str(place)], say)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    _run(peer, [*pip, "--progress-bar=off", "--only-binary=:all:", *requirements], say)


def _installed(python: Path) -> str:
    command = [str(python), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _run(peer: str, command: Sequence[str], say: Say) -> None:
    last = "nothing was said"
    process = subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last = line.strip() or last
                if last.startswith(_STEPS):
                    say(f"{peer}: {last[:100]}")
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise PeerMissing(peer, last)
