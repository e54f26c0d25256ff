"""What is known of an engine, an image and a container. Knows no way of finding it out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
OUT_OF_MEMORY = "ran out of memory"
"""In the last line of the log of a container that the kernel ended for it."""


def address_of(setting: str | None) -> str:
    """Where an engine listens; the user's own, or Docker's usual socket, where nothing is set."""
    return setting or os.environ.get("DOCKER_HOST") or DEFAULT_ADDRESS


def is_podman(version: Mapping[str, Any]) -> bool:
    """Whether an engine is Podman, by its answer to what it is."""
    components = version.get("Components") or ()
    return any("podman" in str(each.get("Name", "")).lower() for each in components)


class Gone(Exception):
    """The container does not exist any more."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What differs from engine to engine."""

    podman: bool = False
    rootless: bool = False
    """It is an ordinary user's, and has no more rights than that user."""
    remapped: bool = False
    """It gives containers users that this machine knows by other numbers."""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the engine has."""

    name: str
    id: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """As an inspection tells it: Labels, Env and so on."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        return self.config.get("Labels") or {}


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine sees it at the moment."""

    id: str
    name: str
    status: str
    """created, running, paused, restarting, removing, exited or dead."""
    pid: int
    """Of its first process, on the engine's machine; 0 when it has none."""
    exit_status: int
    out_of_memory: bool
    error: str
    labels: Mapping[str, str]

    @property
    def running(self) -> bool:
        """Whether it runs and nobody has stopped its processes."""
        return self.status == "running"
