"""Makes or refreshes the virtual environment of this checkout; does nothing when it is current.

Run by ``make setup`` with any Python from 3.10 to 3.12 and its standard library only. The one hard
part is torch: on Linux its plain wheel is a CUDA build of half a gigabyte, with gigabytes of
libraries behind it. Where there is no GPU, only a CPU build is ever installed. The native backend,
which a compiler makes, is native_backend.py's.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import native_backend

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "tritonfleet-setup.json"
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = "embedded,container,envoy,build,s3,mlflow,demo,dev"
TORCH = next(
    line.split(";")[0].strip()
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    if line.startswith("torch==")
)


def main() -> int:
    """Brings the environment to the state that pyproject.toml and constraints.txt describe."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        found = ".".join(map(str, sys.version_info[:3]))
        return fail(f"Python 3.10 to 3.12 is needed, this is {found}", "make PYTHON=python3.11 …")
    bring_up_to_date()
    native_backend.bring_up_to_date(ROOT / "native", VENV, pip, say)
    return 0


def bring_up_to_date() -> None:
    """Installs all packages, unless nothing has changed since the last time."""
    wanted = fingerprint()
    if STAMP.exists() and json.loads(STAMP.read_text(encoding="utf-8")) == wanted:
        return
    started = time.monotonic()
    if not PYTHON.exists():
        step("virtual environment", [sys.executable, "-m", "venv", str(VENV)])
    if not has_gpu():
        install_cpu_torch()
    command = pip("install", "-c", str(CONSTRAINTS), "-e", f"{ROOT}[{EXTRAS}]")
    step("packages (about 1.5 GB on disk, a minute or two)", command)
    STAMP.write_text(json.dumps(wanted), encoding="utf-8")
    say(f"environment ready in {time.monotonic() - started:.0f} s: {VENV}")


def fingerprint() -> dict[str, str]:
    """What the environment depends on; equal fingerprints need no work."""
    files = [ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__)]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return {"inputs": digest, "python": sys.version, "gpu": str(has_gpu()), "root": str(ROOT)}


def has_gpu() -> bool:
    """Whether an NVIDIA driver is loaded."""
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/proc/driver/nvidia/version"))


def install_cpu_torch() -> None:
    """Installs the CPU build of torch, from wherever pip is configured to look or from PyTorch."""
    if installed_torch_is_cpu():
        return
    if pip_finds_cpu_build():
        step("torch, CPU build", pip("install", "-c", str(CONSTRAINTS), TORCH))
        return
    # uv knows where PyTorch keeps its CPU builds.
    step("uv, which finds PyTorch's CPU builds", pip("install", "uv"))
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(PYTHON)]
    constraints = ["-c", str(CONSTRAINTS)]
    if run([*uv, "--torch-backend", "cpu", *constraints, TORCH]) != 0:
        raise SystemExit(
            fail(
                f"no CPU build of {TORCH} was found, and a CUDA build is useless without a GPU",
                "Give pip a place that has one (PIP_FIND_LINKS=DIR or PIP_EXTRA_INDEX_URL=URL), "
                "then run the same command again.",
            )
        )


def installed_torch_is_cpu() -> bool:
    """Whether the environment already has torch, without CUDA."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    found = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() == TORCH.split("==")[1] + "+cpu"


def pip_finds_cpu_build() -> bool:
    """Whether pip, as it is configured here, would choose a CPU build; downloads nothing."""
    command = pip("install", "--dry-run", "--no-deps", "--quiet", "--report", "-", TORCH)
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(found.stdout)["install"]
    except (ValueError, KeyError):
        return False
    return any(str(package["metadata"]["version"]).endswith("+cpu") for package in packages)


def pip(*arguments: str) -> list[str]:
    """A pip command of the environment."""
    return [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments]


def step(what: str, command: Sequence[str]) -> None:
    """Runs one command with its progress shown, and stops the set-up if it fails."""
    say(f"{what} …")
    if run(command) != 0:
        raise SystemExit(fail(f"{what} failed", "See pip's message above; then run it again."))


def run(command: Sequence[str]) -> int:
    """The exit status of a command whose output people see."""
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    extra = quiet if "pip" in command and "install" in command else []
    return subprocess.run([*command, *extra], check=False, env=os.environ).returncode


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"setup: {text}\n")
    sys.stderr.flush()


def fail(cause: str, hint: str) -> int:
    """One line that says what went wrong, one that says what to do."""
    sys.stderr.write(f"setup: error: {cause}.\nsetup: {hint}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
