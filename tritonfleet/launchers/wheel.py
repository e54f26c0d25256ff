"""Finds the tritonserver of the ``nvidia-pytriton`` wheel, and what its model processes need.

Looks at installed files only: nothing of pytriton is imported, whose own dependencies a server has
no use for.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonfleet.errors import LauncherUnavailable
from tritonfleet.launchers.native import NativeBackend

_LAUNCHER = "embedded"
_DISTRIBUTION = "nvidia-pytriton"
_INSTALL = "Install it with: pip install 'tritonfleet[embedded]'"
_OLDEST_GLIBC = (2, 35)
_STUB = "triton_python_backend_stub"
_OUR_BACKENDS = Path(__file__).parent / "backends"
_NATIVE = "onnxruntime"
_ALLOCATOR = {
    # ONNX models share one process and many threads: without a bound, the C library would keep a
    # pool for each of them.
    "MALLOC_ARENA_MAX": "4",
    # What is larger comes from the system afresh each time and goes back at once. A session's own
    # small arena does not: the next model takes its pages, and a second after an unload the
    # backend returns what nobody took.
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
}


@dataclass(frozen=True, slots=True)
class Wheel:
    """Where the parts of an embedded tritonserver lie."""

    tritonserver: Path
    libraries: Path
    python_backend: Path
    stub: Path
    """The program that runs models, built for this version of Python."""
    libpython: Path
    """The shared Python library that the stub is linked to."""


def find_wheel() -> Wheel:
    """The installed wheel; LauncherUnavailable with the next step when it cannot run here."""
    check_platform(sys.platform, _glibc_version())
    try:
        distribution = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise _unavailable(f"{_DISTRIBUTION} is not installed", _INSTALL) from None
    if importlib.util.find_spec("onnxruntime") is None:
        raise _unavailable("onnxruntime is not installed", _INSTALL)
    server = Path(str(distribution.locate_file("pytriton/tritonserver")))
    return Wheel(
        tritonserver=_existing(server / "bin/tritonserver"),
        libraries=_existing(Path(str(distribution.locate_file("nvidia_pytriton.libs")))),
        python_backend=_existing(server / "backends/python"),
        stub=_find_stub(server / "python_backend_stubs"),
        libpython=find_libpython(_library_folders()),
    )


def check_platform(platform: str, glibc: tuple[int, ...] | None) -> None:
    """LauncherUnavailable unless this is a Linux whose C library the wheel can use."""
    hint = "Use launcher 'external' with a tritonserver that runs elsewhere, or a container."
    if platform != "linux":
        raise _unavailable(f"it needs Linux, and this is {platform}", hint)
    if glibc is None or glibc < _OLDEST_GLIBC:
        told = f"glibc {'.'.join(map(str, glibc))}" if glibc else "another C library"
        wanted = ".".join(map(str, _OLDEST_GLIBC))
        raise _unavailable(f"tritonserver needs glibc {wanted} or newer, this is {told}", hint)


def _glibc_version() -> tuple[int, ...] | None:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (ValueError, OSError):
        return None
    return tuple(int(part) for part in version.split(".")) if name == "glibc" else None


def _find_stub(stubs: Path) -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = stubs / version / _STUB
    if not stub.exists():
        known = sorted(folder.name for folder in stubs.glob("3.*"))
        raise _unavailable(
            f"{_DISTRIBUTION} has no stub for Python {version}",
            f"Use one of: Python {', '.join(known) or '(none found; reinstall it)'}.",
        )
    return stub


def find_libpython(folders: tuple[Path, ...]) -> Path:
    """The shared Python library, from the first folder that has it; LauncherUnavailable if none."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    raise _unavailable(
        f"{name}, which models run on, is in none of {', '.join(map(str, folders))}",
        f"Install the package that has it (Debian and Ubuntu: libpython{version}; Fedora: "
        f"python{version}-libs), or use a Python built with --enable-shared.",
    )


def _library_folders() -> tuple[Path, ...]:
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    found = (
        sysconfig.get_config_var("LIBDIR"),
        f"{sys.base_prefix}/lib",
        *os.environ.get("LD_LIBRARY_PATH", "").split(":"),
        f"/usr/lib/{multiarch}",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/lib",
    )
    return tuple(dict.fromkeys(Path(folder) for folder in found if folder))


def _existing(path: Path) -> Path:
    if not path.exists():
        raise _unavailable(
            f"{path} is missing from {_DISTRIBUTION}",
            f"Reinstall it: pip install --force-reinstall {_DISTRIBUTION}",
        )
    return path


def _unavailable(cause: str, hint: str) -> LauncherUnavailable:
    return LauncherUnavailable(_LAUNCHER, cause, hint)


@dataclass(frozen=True, slots=True)
class Installation:
    """A folder of our own, in the shape tritonserver wants to find."""

    backends: Path
    libraries: Path
    """Holds the shared Python library and nothing else: its neighbours, a whole Conda environment
    perhaps, must not replace what tritonserver was built with."""


def assemble(wheel: Wheel, folder: Path, native: NativeBackend | None = None) -> Installation:
    """Lays out the python backend and our own backends, in place of what was there.

    The native backend takes the place of the python-based one of the same name.

    Copies, 3 MB: Triton refuses a library that a symlink leads out of its backend directory, and
    a package upgraded under a running server must not change what its next load finds.
    """
    shutil.rmtree(folder, ignore_errors=True)
    backends, libraries = folder / "backends", folder / "lib"
    for part in (
        wheel.stub,
        *wheel.python_backend.glob("*.so"),
        *wheel.python_backend.glob("*.py"),
    ):
        _copy(part, backends / "python")
    for model in _OUR_BACKENDS.glob("*/model.py"):
        name = model.parent.name
        _copy(native.library if native and name == _NATIVE else model, backends / name)
    libraries.mkdir()
    (libraries / wheel.libpython.name).symlink_to(wheel.libpython)
    return Installation(backends, libraries)


def _copy(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, folder)


def server_environment(
    wheel: Wheel,
    installation: Installation,
    inherited: Mapping[str, str],
    *,
    native: NativeBackend | None = None,
) -> dict[str, str]:
    """The environment of tritonserver, from which its model processes get theirs."""
    return {
        # Many model processes on few cores: a pool of threads in each would only make them wait
        # for each other.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        **(_ALLOCATOR if native else {}),
        **inherited,
        # The stub runs the first python3 on the PATH: this environment's, activated or not.
        # Variables such as PYTHONPATH and PYTHONDONTWRITEBYTECODE it ignores.
        "PATH": _prepend((Path(sys.executable).parent,), inherited.get("PATH")),
        "LD_LIBRARY_PATH": _prepend(
            (wheel.libraries, installation.libraries), inherited.get("LD_LIBRARY_PATH")
        ),
    }


def _prepend(folders: tuple[Path, ...], inherited: str | None) -> str:
    return os.pathsep.join([*map(str, folders), *([inherited] if inherited else [])])
