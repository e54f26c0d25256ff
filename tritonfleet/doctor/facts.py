"""What there is to know of a machine, whoever found it out. Asks nobody and judges nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tritonfleet.doctor.needs import Port
from tritonfleet.doctor.nvidia import Gpu
from tritonfleet.launchers.engine.facts import DEFAULT_ADDRESS

Problem = Literal["no sdk", "no socket", "no permission", "no answer"]


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the engine has."""

    size_bytes: int
    architecture: str
    config: Mapping[str, Any]
    """As it would be run: Labels, Env and others."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What listens at an address, or why it does not answer."""

    address: str
    problem: Problem | None = None
    detail: str = ""
    kind: str = "Docker"
    version: str = ""
    api_version: str = ""
    storage_driver: str = ""
    cgroup: str = ""
    runtimes: tuple[str, ...] = ()
    root_folder: str = ""
    rootless: bool = False
    architecture: str = ""
    warnings: tuple[str, ...] = ()
    images: Mapping[str, Image] = field(default_factory=dict)

    @property
    def here(self) -> bool:
        """Whether its disk is this machine's, as far as its address tells."""
        return self.problem is None and self.address.startswith("unix://")


@dataclass(frozen=True, slots=True)
class Nvidia:
    """Of the driver and its devices."""

    hardware: bool = False
    """Whether the PCI bus has an NVIDIA GPU."""
    loaded: bool = False
    nouveau: bool = False
    program: bool = False
    """Whether there is an nvidia-smi."""
    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None
    """What nvidia-smi says instead of an answer."""
    xids: tuple[str, ...] = ()
    """Errors that the driver reported to the kernel's log, the newest last."""


@dataclass(frozen=True, slots=True)
class Mps:
    """Of the Multi-Process Service."""

    daemon: bool
    pipe_directory: Path
    pipe_exists: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the host, and what of it this process may use."""

    total_bytes: int
    available_bytes: int
    swap_used_bytes: int
    limit_bytes: int | None
    """Of the control groups we are in."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Of the file system that a folder is on, or will be."""

    path: Path
    total_bytes: int
    free_bytes: int
    writable: bool


@dataclass(frozen=True, slots=True)
class PortState:
    """Whether a port is free; else why not, and who has it."""

    port: Port
    error: str | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Of this process and of the kernel; None is no limit, or not known."""

    open_files: int | None
    open_files_hard: int | None
    inotify_instances: int | None
    inotify_watches: int | None
    pids: int | None


@dataclass(frozen=True, slots=True)
class Fit:
    """What is known of an image beside this repository and this machine."""

    release: str | None = None
    """Of Triton."""
    mismatch: str | None = None
    """Why it will not do, as the launcher would say."""
    remarks: tuple[str, ...] = ()
    """What the launcher would warn of."""


def client_command(engine: Engine, *words: str) -> str:
    """What to type to tell this engine something."""
    program = "podman" if engine.kind == "Podman" else "docker"
    host = (
        ["-H", engine.address] if program == "docker" and engine.address != DEFAULT_ADDRESS else []
    )
    return shlex.join([program, *host, *words])
