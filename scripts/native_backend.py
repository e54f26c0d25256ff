"""Builds and installs the native ONNX Runtime backend when its sources have changed.

It never stops a set-up: where the backend cannot be had, ONNX models run on the python-based one. A
failure is remembered, so that it costs nothing until the sources or the means have changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

DISTRIBUTION = "tritonfleet-onnxruntime"
LIBRARY = "tritonfleet_onnxruntime/libtriton_onnxruntime.so"
WHEEL_VARIABLE = "TRITONFLEET_NATIVE_WHEEL"
_COMPILERS = ("c++", "g++", "clang++")
_SOURCES = (
    "pyproject.toml",
    "CMakeLists.txt",
    "exports.map",
    "src/**/*",
    "tritonfleet_onnxruntime/*",
)


@dataclass(frozen=True)
class State:
    """What an installed backend was made of, or why there is none."""

    sources: str
    """Digest of the sources."""
    wheel: str
    """The prebuilt wheel that the user names; empty if none."""
    wheel_digest: str
    compiler: str
    find_links: str
    """Where the user lets pip look for wheels."""
    failure: str = ""


def bring_up_to_date(
    native: Path, venv: Path, pip: Callable[..., list[str]], say: Callable[[str], None]
) -> None:
    """Installs what the sources in ``native`` say, or tells in one line why not."""
    stamp, wanted = venv / "tritonfleet-native.json", wanted_state(native, os.environ)
    if is_current(wanted, read_state(stamp), is_installed(venv)):
        return
    say("native ONNX Runtime backend (half a minute) …")
    log = venv / "tritonfleet-native.log"
    log.write_bytes(b"")
    if not any(succeeds(pip(*way), log) for way in ways(wanted, native)):
        succeeds(pip("uninstall", "--yes", DISTRIBUTION), log)  # what is left of earlier sources
        wanted = replace(wanted, failure=cause(wanted, log))
        say(f"no native ONNX Runtime backend, the slower python-based one serves: {wanted.failure}")
    stamp.write_text(json.dumps(asdict(wanted)), encoding="utf-8")


def wanted_state(native: Path, environment: Mapping[str, str]) -> State:
    """What should be installed, and what it could be had from."""
    wheel = environment.get(WHEEL_VARIABLE, "")
    return State(
        sources=digest(native),
        wheel=wheel and str(Path(wheel).resolve()),
        wheel_digest=file_digest(Path(wheel)),
        compiler=find_compiler(environment) or "",
        find_links=environment.get("PIP_FIND_LINKS", ""),
    )


def is_current(wanted: State, recorded: State | None, installed: bool) -> bool:
    """Whether there is nothing to do."""
    if recorded is None:
        return False
    if recorded.failure:
        return replace(recorded, failure="") == wanted  # another compiler may do better
    return installed and made_of(recorded) == made_of(wanted)


def made_of(state: State) -> tuple[str, ...]:
    """What decides the contents of an installed backend."""
    return state.sources, state.wheel, state.wheel_digest


def ways(wanted: State, native: Path) -> list[list[str]]:
    """What pip is told, the best first: the wheel that was named, or the sources, or any wheel."""
    install = ["install", "--no-deps", "--force-reinstall"]
    if wanted.wheel:
        return [[*install, wanted.wheel]]
    sources = [[*install, str(native)]] if wanted.compiler else []
    # No index: whoever takes this name on a public one must not reach anybody's server.
    return [*sources, [*install, "--no-index", "--only-binary=:all:", DISTRIBUTION]]


def cause(wanted: State, log: Path) -> str:
    """Why there is no backend, and what to do."""
    if wanted.wheel:
        return f"pip did not install {wanted.wheel} ({WHEEL_VARIABLE}); see {log}."
    if wanted.compiler:
        return f"it did not build with {wanted.compiler}; see {log}. 'make native' tries again."
    return (
        "there is no C++ compiler. Install one (Debian and Ubuntu: apt install g++), or set "
        f"{WHEEL_VARIABLE} to a wheel of {DISTRIBUTION}; then run the same command again."
    )


def find_compiler(environment: Mapping[str, str]) -> str | None:
    """The C++ compiler that CMake would take."""
    chosen = environment.get("CXX", "").split()
    candidates = chosen[:1] or _COMPILERS
    found = (shutil.which(name, path=environment.get("PATH")) for name in candidates)
    return next(filter(None, found), None)


def digest(native: Path) -> str:
    """One for all files that decide what is built: their names and contents."""
    files = sorted(path for pattern in _SOURCES for path in native.glob(pattern) if path.is_file())
    lines = (f"{path.relative_to(native)} {file_digest(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Of one file; empty when it does not exist."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def read_state(stamp: Path) -> State | None:
    """What the last set-up has left; None when it cannot be told."""
    try:
        return State(**json.loads(stamp.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_installed(venv: Path) -> bool:
    """Whether the library is there, whoever has put it there."""
    return any(venv.glob(f"lib*/python3*/site-packages/{LIBRARY}"))


def succeeds(command: list[str], log: Path) -> bool:
    """Whether a command does what it should; all it says goes to the log."""
    with log.open("ab") as output:
        return subprocess.run(command, stdout=output, stderr=output, check=False).returncode == 0
