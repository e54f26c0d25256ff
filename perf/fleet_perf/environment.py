"""Where and with what a measurement was taken: figures mean nothing without it."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from fleet_perf import install

_PACKAGES = (
    "tritonfleet", "nvidia-pytriton", "onnxruntime", "numpy", "tritonclient", "aiohttp",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """The machine, its load at this moment, the packages and the commit."""
    return {
        "taken_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": list(os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "perf_analyzer": f"of tritonclient {install.RELEASE}, unless named or on PATH",
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def busy(environment: dict[str, Any]) -> str | None:
    """A warning when something else is running on the machine."""
    load, cores = environment["load_average"][0], environment["usable_cores"]
    if load <= cores / 2:
        return None
    return (
        f"the machine is busy (load {load:.1f} on {cores} cores): "
        "ratios hold roughly, absolute figures do not"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout this runs from; with '+' when files differ from it."""
    head = _git("rev-parse", "HEAD")
    return None if head is None else head + ("+" if _git("status", "--porcelain") else "")


def _git(*arguments: str) -> str | None:
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
