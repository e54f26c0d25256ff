"""Asks this machine. Every question is asked once, takes bounded time, and is answered by facts.

Nothing here judges, and nothing here changes anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import socket
import subprocess
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import psutil

from tritonfleet.doctor.cgroups import ControlGroups, read_number, read_text
from tritonfleet.doctor.commands import Family, family_of
from tritonfleet.doctor.facts import Disk, Limits, Memory, Mps, Nvidia, PortState
from tritonfleet.doctor.needs import Port
from tritonfleet.doctor.nvidia import parse_log, with_capabilities, with_names

_ASKS_S = 20.0
"""nvidia-smi takes seconds where no persistence daemon keeps the driver awake."""
CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said; status None where it could not be run, or took too long."""

    status: int | None
    text: str


def ask(*command: str, timeout_s: float = _ASKS_S) -> Answer:
    """Runs a short command; never raises."""
    program = shutil.which(command[0])
    if program is None:
        return Answer(None, "not installed")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(None, f"no answer within {timeout_s:g} s")
    except OSError as error:
        return Answer(None, str(error.strerror))
    return Answer(done.returncode, done.stdout.decode(errors="replace"))


class Machine:
    """The one we run on."""

    @cached_property
    def family(self) -> Family:
        """Of Linux distributions."""
        return family_of(read_text(Path("/etc/os-release")))

    @cached_property
    def nvidia(self) -> Nvidia:
        """The driver and its devices."""
        hardware, loaded = _has_nvidia_hardware(), Path("/proc/driver/nvidia/version").exists()
        nouveau = Path("/sys/module/nouveau").exists()
        found = Nvidia(hardware, loaded, nouveau, shutil.which("nvidia-smi") is not None)
        return _told_by_nvidia_smi(found) if found.program else found

    @cached_property
    def mps(self) -> Mps:
        """The Multi-Process Service."""
        pipe = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))  # noqa: S108 - its default
        names = {process.info["name"] for process in psutil.process_iter(["name"])}
        # The kernel cuts names after 15 characters.
        daemon = any((name or "").startswith("nvidia-cuda-mps") for name in names)
        return Mps(daemon, pipe, pipe.exists())

    @cached_property
    def toolkit_version(self) -> str | None:
        """Of the NVIDIA Container Toolkit."""
        answer = ask("nvidia-ctk", "--version")
        return answer.text.splitlines()[0] if answer.status == 0 and answer.text else None

    @cached_property
    def toolkit_hook(self) -> bool:
        """Whether Docker finds what it hands GPUs over with."""
        return shutil.which("nvidia-container-runtime-hook") is not None

    @cached_property
    def cdi_specs(self) -> dict[str, str]:
        """The texts of the device specifications that engines read, by path."""
        files = [file for folder in CDI_FOLDERS for file in folder.glob("*") if file.is_file()]
        return {
            str(file): read_text(file)
            for file in files
            if file.suffix in (".yaml", ".yml", ".json")
        }

    @cached_property
    def memory(self) -> Memory:
        """What there is of it."""
        virtual = psutil.virtual_memory()
        swap_used = 0
        with contextlib.suppress(OSError, RuntimeError):
            swap_used = psutil.swap_memory().used
        return Memory(virtual.total, virtual.available, swap_used, ControlGroups().memory_limit())

    @cached_property
    def cores(self) -> float:
        """That this process may keep busy."""
        cores = float(len(os.sched_getaffinity(0)))
        quota = ControlGroups().cpu_quota()
        return min(cores, quota) if quota else cores

    @cached_property
    def limits(self) -> Limits:
        """Of files, watches and processes."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        inotify = Path("/proc/sys/fs/inotify")
        return Limits(
            None if soft == resource.RLIM_INFINITY else soft,
            None if hard == resource.RLIM_INFINITY else hard,
            read_number(inotify / "max_user_instances"),
            read_number(inotify / "max_user_watches"),
            ControlGroups().smallest("pids", "pids.max", "pids.max"),
        )

    def disk(self, path: Path) -> Disk:
        """Of the folder, or of the nearest above it that exists."""
        existing = next(folder for folder in (path, *path.parents) if _exists(folder))
        usage = shutil.disk_usage(existing)
        return Disk(path, usage.total, usage.free, os.access(existing, os.W_OK))

    def port(self, port: Port) -> PortState:
        """Whether we could listen there."""
        error = _try_to_listen(port)
        if error is None:
            return PortState(port)
        owner = _owner(port.number) if error.errno == errno.EADDRINUSE else None
        return PortState(port, error.strerror or str(error), owner)

    def answers(self, address: str, timeout_s: float = 3.0) -> str | None:
        """Why nobody answers at ``host:port``; None where somebody does."""
        host, _, number = address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(number)), timeout_s):
                return None
        except (OSError, ValueError) as error:
            return str(error)

    def unit_stop_timeout_s(self, unit: str) -> float | None:
        """How long systemd waits for a unit to stop; None where there is no such unit."""
        answer = ask("systemctl", "show", unit, "--property=LoadState,TimeoutStopUSec")
        fields = dict(line.split("=", 1) for line in answer.text.splitlines() if "=" in line)
        if answer.status != 0 or fields.get("LoadState") != "loaded":
            return None
        return parse_span(fields.get("TimeoutStopUSec", ""))


# -- NVIDIA ----------------------------------------------------------------------------------


def _has_nvidia_hardware() -> bool:
    for device in Path("/sys/bus/pci/devices").glob("*"):
        vendor, kind = read_text(device / "vendor").strip(), read_text(device / "class").strip()
        if vendor == _NVIDIA_VENDOR and kind.startswith(_DISPLAY_CLASS):
            return True
    return False


def _told_by_nvidia_smi(found: Nvidia) -> Nvidia:
    answer = ask("nvidia-smi", "-q", "-x")
    if answer.status != 0:
        return replace(found, problem=answer.text.strip())
    try:
        log = parse_log(answer.text)
    except ValueError as error:
        return replace(found, problem=str(error))
    gpus = with_names(log.gpus, ask("nvidia-smi", "-L").text)
    told = ask("nvidia-smi", "--query-gpu=index,compute_cap", "--format=csv,noheader")
    gpus = with_capabilities(gpus, told.text if told.status == 0 else "")
    return replace(found, driver=log.driver, gpus=gpus, xids=_xids())


def _xids() -> tuple[str, ...]:
    # Only root and the groups adm and systemd-journal may read the kernel's log.
    answer = ask("journalctl", "--dmesg", "--boot", "--grep=NVRM: Xid", "--lines=5",
                 "--no-pager", "--output=cat")  # fmt: skip
    return tuple(line for line in answer.text.splitlines() if "Xid" in line)


# -- disks -----------------------------------------------------------------------------------


def _exists(path: Path) -> bool:
    """Whether we can see it; what is in a folder that we may not enter does not count."""
    try:
        path.stat()
    except OSError:
        return False
    return True


# -- ports -----------------------------------------------------------------------------------


def _try_to_listen(port: Port) -> OSError | None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            port.host, port.number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as sock:
            # Connections of an earlier run may linger in TIME_WAIT; they are no obstacle.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        return error
    return None


def _owner(number: int) -> str | None:
    """Who listens there; None where we may not know."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and connection.laddr and connection.laddr.port == number and connection.pid:
                process = psutil.Process(connection.pid)
                return f"{process.name()} (pid {process.pid}, {process.username()})"
    return None


# -- text ------------------------------------------------------------------------------------

_SPANS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


def parse_span(text: str) -> float | None:
    """Seconds of a time span as systemd writes it, '1min 30s'; None for 'infinity' and others."""
    total = 0.0
    for part in text.split():
        number = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        factor = _SPANS_S.get(part[len(number) :])
        if factor is None or not number.replace(".", "", 1).isdigit():
            return None
        total += float(number) * factor
    return total if text else None
