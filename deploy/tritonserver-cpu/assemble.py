"""Lays out a tritonserver as NVIDIA's image has it, from wheels. Runs in the build stage only.

Takes the libraries that are linked to and no others: the wheel also brings what five further
versions of Python need.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SERVER = "pytriton/tritonserver"
LIBRARIES = "nvidia_pytriton.libs"
PARTS = {
    f"{SERVER}/bin/tritonserver": "bin",
    f"{SERVER}/backends/python/libtriton_python.so": "backends/python",
    f"{SERVER}/backends/python/triton_python_backend_utils.py": "backends/python",
    f"{SERVER}/python_backend_stubs/{PYTHON}/triton_python_backend_stub": "backends/python",
    f"{SERVER}/caches/local/libtritoncache_local.so": "caches/local",
}
ONNXRUNTIME = "onnxruntime/capi/libonnxruntime.so.*"
LICENSES = ("LICENSE*", "ThirdParty*", "THIRD_PARTY*")


def main() -> None:
    """Lays out the server, or the native backend that is copied over it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("server", "native"))
    parser.add_argument("wheels", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    lay_out = {"server": lay_out_server, "native": lay_out_native}[arguments.part]
    lay_out(arguments.wheels, arguments.target)


def lay_out_server(wheels: Path, server: Path) -> None:
    """The server, its python backend and ONNX Runtime's library."""
    unpacked = unpack(wheels)
    for part, folder in PARTS.items():
        copy(unpacked / part, server / folder)
    for library in linked(server, unpacked / LIBRARIES):
        copy(library, server / "lib")
    for library in unpacked.glob(ONNXRUNTIME):
        copy(library, server / "backends/onnxruntime")
    copy_licenses(unpacked, server)


def lay_out_native(wheels: Path, server: Path) -> None:
    """The native backend, beside the library it opens."""
    unpacked = unpack(wheels)
    library = unpacked / "tritonfleet_onnxruntime/libtriton_onnxruntime.so"
    copy(library, server / "backends/onnxruntime")
    copy_licenses(unpacked, server)


def unpack(wheels: Path) -> Path:
    """All wheels of a folder, in one folder below it."""
    folder = wheels / "unpacked"
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def copy(file: Path, folder: Path) -> None:
    """Readable and, if it is a program, executable by everybody: wheels do not tell which is."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    shutil.copyfile(file, target)
    target.chmod(0o644 if file.suffix == ".py" else 0o755)


def linked(server: Path, libraries: Path) -> list[Path]:
    """The wheel's libraries that anything of the server needs, directly or not."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    programs = [path for path in server.rglob("*") if path.is_file() and path.suffix != ".py"]
    told = subprocess.run(
        ["ldd", *map(str, programs)], env=environment, capture_output=True, text=True, check=True
    ).stdout
    if "not found" in told:
        raise SystemExit(f"assemble: a library is missing:\n{told}")
    found = (Path(word) for word in told.split() if word.startswith(str(libraries)))
    return sorted(set(found))


def copy_licenses(unpacked: Path, server: Path) -> None:
    """What the wheels tell of their licences, by package."""
    for metadata in unpacked.glob("*.dist-info"):
        package = metadata.name.split("-")[0]
        found = [*files(metadata, LICENSES), *files(unpacked / package, LICENSES)]
        for file in found:
            copy(file, server / "licenses" / package)
            (server / "licenses" / package / file.name).chmod(0o644)


def files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """All files below a folder whose names match."""
    return [path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()]


if __name__ == "__main__":
    main()
