"""What the supervisor and the brain tell each other, and how it is written down.

One line of JSON each. An order holds the secrets of the tritonservers: it travels through a pipe,
never among a process's arguments or in its environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from tritonfleet.gateway.envoy.program import Program
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.settings import Settings
from tritonfleet.spec import FleetSpec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServerLink:
    """One running tritonserver, as the brain must know it."""

    name: str
    endpoint: Endpoint
    events: Path | None = None
    """The socket on which its models tell of themselves, for the brain to listen on."""


@dataclass(frozen=True, slots=True)
class Order:
    """All that a brain needs to begin. The ports are those in force, none of them 0."""

    spec: FleetSpec
    settings: Settings
    fleet_folder: Path
    """What paths in the fleet file are relative to."""
    servers: tuple[ServerLink, ...]
    envoy: Program
    """What has to find Envoy's configuration valid."""


@dataclass(frozen=True, slots=True)
class ServerLost:
    """A tritonserver has died."""

    name: str


@dataclass(frozen=True, slots=True)
class ServerBack:
    """A tritonserver runs again, empty, perhaps at another address."""

    link: ServerLink


@dataclass(frozen=True, slots=True)
class Stop:
    """Requests under way may finish; then the brain ends."""

    grace_s: float


@dataclass(frozen=True, slots=True)
class Ready:
    """The brain's sockets are open, and Envoy's files are written and valid."""

    pid: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The brain cannot begin."""

    cause: str


Wish = ServerLost | ServerBack | Stop
Report = Ready | Failed


class Line(Generic[T]):
    """How messages of one kind are written and read."""

    def __init__(self, kind: Any) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)

    def write(self, message: T) -> bytes:
        """One line."""
        # Only what was set: defaults lose against the layers below, given values do not.
        text = self._adapter.dump_json(message, by_alias=True, exclude_unset=True)
        return text + b"\n"

    def read(self, line: bytes) -> T:
        """The message again."""
        return self._adapter.validate_json(line)


ORDER: Line[Order] = Line(Order)
WISH: Line[Wish] = Line(Wish)
REPORT: Line[Report] = Line(Report)
