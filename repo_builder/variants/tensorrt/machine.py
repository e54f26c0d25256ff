"""What this machine has for TensorRT: a GPU, its driver, and TensorRT itself. Facts only.

TensorRT without a GPU does not fail, it crashes: everything is asked in processes of their own.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from repo_builder.causes import first_line
from tritonfleet.errors import BuildError

_QUERY = ("nvidia-smi", "--query-gpu=uuid,name,compute_cap,driver_version", "--format=csv,noheader")
_PROBE = """
import tensorrt
print(tensorrt.__version__, flush=True)
tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
print("works", flush=True)
"""
_PATIENCE_S = 60
_OLDEST_MAJOR = 10
"""Earlier ones take no INT64 inputs."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU that CUDA programs of this process use."""

    name: str
    compute_capability: str
    driver: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found, and what is missing for TensorRT, in words."""

    gpu: Gpu | None = None
    tensorrt: str | None = None
    """Its version, if it works."""
    missing: tuple[str, ...] = ()
    platform: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said; a status below 0 is the signal that ended it."""

    status: int
    output: str
    errors: str = ""


Ask: TypeAlias = Callable[[Sequence[str]], "Answer | None"]
"""Runs a command; None where there is none of that name."""


class _Missing(Exception):
    """One thing that is not there."""


def ask(command: Sequence[str]) -> Answer | None:
    """What a command says; it is given a minute."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer(1, "", str(error))
    return Answer(done.returncode, done.stdout, done.stderr)


def probe_machine(
    ask: Ask = ask, environment: Mapping[str, str] = os.environ, module: str = "tensorrt"
) -> Machine:
    """Everything that is there, and everything that is missing."""
    gpu, version, missing = None, None, []
    try:
        gpu = _gpu(ask, environment.get("CUDA_VISIBLE_DEVICES"))
    except _Missing as error:
        missing.append(str(error))
    try:
        version = _tensorrt(ask, module, usable=gpu is not None)
    except _Missing as error:
        missing.append(str(error))
    return Machine(gpu, version, tuple(missing), f"{sys.platform}-{platform.machine()}")


def require(machine: Machine, model: str, what: str, error: type[BuildError]) -> None:
    """Raises the error, with everything that is missing, unless nothing is."""
    if machine.missing:
        cause = f"{what} on this machine: {', and '.join(machine.missing)}"
        hint = (
            "An engine needs the kind of GPU and the TensorRT version of the server that will run "
            f"it: build there, in the server's own image. {model} keeps its ONNX."
        )
        raise error(model, cause, hint)


def _gpu(ask: Ask, visible: str | None) -> Gpu:
    answer = ask(_QUERY)
    if answer is None:
        raise _Missing("there is no NVIDIA GPU (no nvidia-smi, so no driver)")
    rows = [[cell.strip() for cell in row] for row in csv.reader(answer.output.splitlines())]
    # nvidia-smi says what is wrong with the driver on its standard output.
    if answer.status != 0 or not rows or any(len(row) != len(_FIELDS) for row in rows):
        said = first_line(answer.output or answer.errors) or f"it ended with {answer.status}"
        raise _Missing(f"there is no usable NVIDIA GPU (nvidia-smi: {said})")
    return _only_kind(_visible(rows, visible))


_FIELDS = ("uuid", "name", "compute_cap", "driver_version")


def _visible(rows: list[list[str]], visible: str | None) -> list[list[str]]:
    """The GPUs that CUDA_VISIBLE_DEVICES lets programs see."""
    # A slice of a GPU has a name of its own; nvidia-smi lists the whole.
    if visible is None or visible.startswith("MIG-"):
        return rows
    wanted = [entry.strip() for entry in visible.split(",")]
    return [
        row
        for index, row in enumerate(rows)
        if any(entry == str(index) or (entry and row[0].startswith(entry)) for entry in wanted)
    ]


def _only_kind(rows: list[list[str]]) -> Gpu:
    kinds = dict.fromkeys(Gpu(name, capability, driver) for _, name, capability, driver in rows)
    if not kinds:
        raise _Missing("there is no NVIDIA GPU that CUDA_VISIBLE_DEVICES leaves visible")
    if len(kinds) > 1:
        listed = " and ".join(gpu.name for gpu in kinds)
        raise _Missing(
            f"it is not said for which GPU ({listed}): set CUDA_VISIBLE_DEVICES to the UUID of one"
        )
    return next(iter(kinds))


def _tensorrt(ask: Ask, module: str, *, usable: bool) -> str | None:
    """The version of a TensorRT that works; None where only a GPU could tell."""
    if importlib.util.find_spec(module) is None:
        raise _Missing("TensorRT is not installed for this Python (no module 'tensorrt')")
    if not usable:
        return None
    answer = ask((sys.executable, "-c", _PROBE))
    assert answer is not None, "this very interpreter exists"
    said = answer.output.split()
    if answer.status < 0:
        raise _Missing(f"TensorRT crashes (signal {-answer.status}): does it fit the driver?")
    if answer.status != 0 or said[1:] != ["works"]:
        raise _Missing(f"TensorRT does not work ({_last_line(answer.errors)})")
    if int(said[0].partition(".")[0]) < _OLDEST_MAJOR:
        raise _Missing(f"TensorRT {said[0]} is older than {_OLDEST_MAJOR}")
    return said[0]


def _last_line(trace: str) -> str:
    return next((line for line in reversed(trace.splitlines()) if line.strip()), "it says nothing")
