"""What is known of an engine, an image and a container. Knows no way of finding it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OUT_OF_MEMORY = "ran out of memory"
"""In the last line of the log of a container that the kernel ended for it."""


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
