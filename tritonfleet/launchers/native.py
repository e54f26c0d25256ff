"""Which backend runs the ONNX models of an embedded server, and what the native one needs.

Looks at installed files and opens them in a process of its own: whatever is wrong with a library
is found there, before tritonserver is started. Neither of the two packages is imported.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonfleet.errors import LauncherUnavailable
from tritonfleet.launchers.guard import remove_folder
from tritonfleet.server.events import ModelEvents
from tritonfleet.settings import OnnxruntimeBackend

_PACKAGE = "tritonfleet_onnxruntime"
_LIBRARY = "libtriton_onnxruntime.so"
_ONNXRUNTIME = re.compile(r"libonnxruntime\.so\.(\d+)\.(\d+)\.(\d+)")
_OLDEST_ONNXRUNTIME = (1, 23, 0)
_BUILD = "In a checkout, 'make native' builds it or tells why it cannot."
_INSTALL = "Install it with: pip install 'onnxruntime>=1.23'."
_TRIAL_TIMEOUT_S = 60.0
_LONGEST_FOLDER = 64
# Lazily: what the backend wants of Triton is only inside tritonserver.
_TRIAL = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.dlopen.restype, libc.dlerror.restype = ctypes.c_void_p, ctypes.c_char_p
for path in sys.argv[1:]:
    if not libc.dlopen(path.encode(), os.RTLD_LAZY):
        sys.exit(libc.dlerror().decode())
"""


@dataclass(frozen=True, slots=True)
class NativeBackend:
    """The two libraries that run ONNX models inside tritonserver."""

    library: Path
    onnxruntime: Path


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs the ONNX models of one server."""

    native: NativeBackend | None = None
    reason: str = ""
    """Why the native backend was not taken, if nobody has refused it."""

    def __str__(self) -> str:
        if self.native:
            return f"native backend, ONNX Runtime {_dotted(_version(self.native.onnxruntime))}"
        return f"python-based backend{self.reason and f': {self.reason}'}"


def choose_backend(wanted: OnnxruntimeBackend, environment: Mapping[str, str]) -> Choice:
    """The backend for a server of this environment.

    Raises LauncherUnavailable when the native one is demanded and cannot run.
    """
    if wanted == "python":
        return Choice()
    try:
        native = find_native()
        try_libraries(native, environment)
    except LauncherUnavailable as error:
        if wanted == "native":
            cause = f"onnxruntime_backend is 'native', and {error.cause}"
            raise _unavailable(cause, f"{error.hint} 'auto' makes do without.") from error
        return Choice(reason=f"{error.cause.rstrip('.')}. {error.hint}")
    return Choice(native)


def find_native() -> NativeBackend:
    """The installed libraries; LauncherUnavailable when one is missing or too old."""
    folder = _package_folder(_PACKAGE)
    if folder is None or not (folder / _LIBRARY).exists():
        raise _unavailable("tritonfleet-onnxruntime is not installed", _BUILD)
    onnxruntime = _package_folder("onnxruntime")
    if onnxruntime is None:
        raise _unavailable("onnxruntime is not installed", _INSTALL)
    return NativeBackend(folder / _LIBRARY, find_onnxruntime(onnxruntime / "capi"))


def _package_folder(name: str) -> Path | None:
    """Where a package lies, which is not imported for that."""
    spec = importlib.util.find_spec(name)
    locations = spec.submodule_search_locations if spec else None
    return Path(next(iter(locations))) if locations else None


def find_onnxruntime(folder: Path) -> Path:
    """The newest libonnxruntime of a folder; LauncherUnavailable if none is new enough."""
    found = [path for path in folder.glob("libonnxruntime.so.*") if _version(path)]
    if not found:
        cause = f"this onnxruntime has no libonnxruntime.so.<version> in {folder}"
        raise _unavailable(cause, f"That of the Python wheel has. {_INSTALL}")
    newest = max(found, key=_version)
    if _version(newest) < _OLDEST_ONNXRUNTIME:
        cause = f"onnxruntime {_dotted(_version(newest))} is too old for it"
        raise _unavailable(cause, _INSTALL)
    return newest


def _version(library: Path) -> tuple[int, ...]:
    match = _ONNXRUNTIME.fullmatch(library.name)
    return tuple(map(int, match.groups())) if match else ()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def try_libraries(native: NativeBackend, environment: Mapping[str, str]) -> None:
    """Opens both as tritonserver would; LauncherUnavailable with the linker's words if it fails."""
    libraries = [str(native.onnxruntime), str(native.library)]
    command = [sys.executable, "-I", "-S", "-c", _TRIAL, *libraries]
    try:
        trial = subprocess.run(
            command,
            env=dict(environment),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TRIAL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _unavailable(f"opening {native.library} takes too long", _BUILD) from None
    if trial.returncode != 0:
        said = trial.stderr.strip().splitlines()
        cause = said[-1] if said else f"opening {native.library} ended with {trial.returncode}"
        raise _unavailable(f"the native backend does not fit this machine: {cause}", _BUILD)


def _unavailable(cause: str, hint: str) -> LauncherUnavailable:
    return LauncherUnavailable("embedded", cause, hint)


def events_folder(instance: str) -> Path:
    """Where the models of one start tell of themselves: a folder for a socket and nothing else."""
    # Not under state_dir: the path of a Unix socket has at most 107 bytes.
    usual = tempfile.gettempdir()
    short = usual if len(usual.encode()) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108 - see below
    return Path(short) / instance


async def listen_for_events(instance: str) -> ModelEvents:
    """A new socket in a new folder that nobody else may enter."""
    folder = events_folder(instance)
    folder.mkdir(mode=0o700)  # fails when somebody has been quicker
    try:
        return await ModelEvents.listen(folder / "events")
    except BaseException:
        remove_folder(str(folder))
        raise


def stop_listening(events: ModelEvents | None) -> None:
    """Closes the socket and removes its folder; harmless afterwards."""
    if events:
        events.close()
        remove_folder(str(events.path.parent))
