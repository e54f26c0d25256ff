"""Builds the native backend with a sanitizer, and drives it inside a Triton that it can see into.

The programs are those of native/tests/. What is built stays in pytest's cache: only what has
changed is compiled again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tritonfleet.errors import LauncherUnavailable
from tritonfleet.launchers.native import find_onnxruntime
from tritonfleet.launchers.wheel import find_wheel

NATIVE = Path(__file__).parents[2] / "native"
BUILD_TIMEOUT_S = 600
# What a program is given beyond the time that it was asked to take.
PATIENCE_S = 240
SANITIZERS = {"plain": "", "address": "address,undefined", "thread": "thread"}
OPTIONS = {
    # An allocation that fails is the backend's to handle, not the sanitizer's.
    "ASAN_OPTIONS": "allocator_may_return_null=1:detect_leaks=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
_MOST_BITS_OF_GCC_12 = 28


def require(module: str) -> Path:
    """The folder of an installed package, or the reason why the test is skipped."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{module} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def tritonserver_library() -> Path:
    try:
        (library,) = find_wheel().libraries.glob("libtritonserver-*.so")
    except LauncherUnavailable as error:
        pytest.skip(str(error))
    return library


def run(command: list[str | Path], timeout_s: float, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        **options,
    )


def configure(folder: Path, sanitizer: str) -> list[str | Path]:
    return [
        "cmake",
        *("-S", NATIVE, "-B", folder),
        *(["-G", "Ninja"] if shutil.which("ninja") else []),
        "-DCMAKE_BUILD_TYPE=Debug",
        "-DCMAKE_CXX_FLAGS_DEBUG=-O1",
        "-DTRITONFLEET_TESTS=ON",
        f"-DTRITONFLEET_SANITIZE={sanitizer}",
        f"-DTRITONFLEET_SERVER_LIBRARY={tritonserver_library()}",
        f"-DNLOHMANN_INCLUDE_DIR={require('nlohmann_json') / 'include'}",
    ]


def build(folder: Path, name: str) -> Build:
    """What ``folder`` holds, brought up to date; skips where it cannot be built."""
    if not shutil.which("cmake") or not (shutil.which("c++") or os.environ.get("CXX")):
        pytest.skip("there is no cmake or no C++ compiler")
    for command in (configure(folder, SANITIZERS[name]), ["cmake", "--build", folder, "-j2"]):
        done = run(command, BUILD_TIMEOUT_S)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return Build(folder, find_onnxruntime(require("onnxruntime") / "capi"), name)


@dataclass(frozen=True)
class Build:
    """The programs, built with one sanitizer."""

    folder: Path
    onnxruntime: Path
    name: str
    environment: dict[str, str] = field(default_factory=dict)

    def host(self, mode: str, repository: Path, **numbers: int) -> dict[str, int]:
        """What a mode of the host has counted; fails with its last words when it failed."""
        command = [
            *self.prefix(),
            self.folder / "tests" / "triton_host",
            mode,
            f"--repository={repository}",
            f"--backends={self.folder / 'backends'}",
            f"--config=library={self.onnxruntime}",
            *(f"--{name}={number}" for name, number in numbers.items()),
        ]
        done = self.program(command, numbers.get("seconds", 0) + PATIENCE_S)
        counted = json.loads(done.stdout)
        assert isinstance(counted, dict)
        return counted

    def parsing_fuzz(self, iterations: int, seed: int, files: list[Path]) -> None:
        program = self.folder / "tests" / "parsing_fuzz"
        self.program([program, str(iterations), str(seed), *files], PATIENCE_S)

    def program(self, command: list[str | Path], timeout_s: float) -> subprocess.CompletedProcess:
        environment = {**os.environ, **OPTIONS, **self.environment}
        done = run(command, timeout_s, env=environment)
        assert done.returncode == 0, f"ended with {done.returncode}:\n{done.stderr[-6000:]}"
        return done

    def prefix(self) -> list[str]:
        """GCC's thread sanitizer cannot be where newer systems put a program."""
        bits = Path("/proc/sys/vm/mmap_rnd_bits")
        if self.name != "thread" or not bits.exists():
            return []
        return ["setarch", "-R"] if int(bits.read_text()) > _MOST_BITS_OF_GCC_12 else []
