"""Memory that clients share with the tritonservers, in place of sending tensors.

A region is a name that a client gives to memory of the machine. Every tritonserver of the machine
must know it, because any of them may hold the model that a request is for; one that was restarted
must be told again. Both fronts forward what they were asked and note here what came of it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from tritonfleet.controller.controller import Controller
from tritonfleet.errors import NotAllowed, SharedMemoryRefused
from tritonfleet.gateway.desk import Desk

Kind = Literal["system", "cuda"]


@dataclass(frozen=True, slots=True)
class Region:
    """Shared memory as a client registered it."""

    kind: Kind
    name: str
    byte_size: int
    key: str = ""
    """Of system memory: its path under /dev/shm."""
    offset: int = 0
    raw_handle: bytes = field(default=b"", repr=False)
    """Of a GPU's memory: a CUDA IPC handle."""
    device_id: int = 0

    def to_json(self) -> dict[str, Any]:
        """The body of Triton's HTTP request that registers it."""
        if self.kind == "system":
            return {"key": self.key, "offset": self.offset, "byte_size": self.byte_size}
        handle = {"b64": base64.b64encode(self.raw_handle).decode()}
        return {"raw_handle": handle, "device_id": self.device_id, "byte_size": self.byte_size}


class SharedMemory:
    """Which regions are registered, and whether they may be."""

    def __init__(self, controller: Controller, desk: Desk) -> None:
        self._controller, self._desk = controller, desk
        self._regions: dict[tuple[Kind, str], Region] = {}

    def servers(self, tenant: str | None) -> tuple[str, ...]:
        """The servers that must be told of every change.

        Raises NotAllowed or SharedMemoryRefused where sharing makes no sense.
        """
        if self._desk.rules.tenants:
            hint = "A region of one tenant could be read by every other."
            raise NotAllowed(tenant, "use shared memory", hint)
        names = self._controller.servers()
        for name in names:
            if self._controller.endpoint(name).pid is None:
                raise SharedMemoryRefused(f"server '{name}' may run on another machine")
        return names

    @property
    def regions(self) -> tuple[Region, ...]:
        """What a restarted server has to be told, in the order of registration."""
        return tuple(self._regions.values())

    def remember(self, region: Region) -> None:
        """Notes a region that every server has taken."""
        self._regions[region.kind, region.name] = region

    def forget(self, kind: Kind, name: str = "") -> None:
        """Notes that a region is gone; all of a kind where no name is given."""
        for key in self._gone(kind, name):
            del self._regions[key]

    def _gone(self, kind: Kind, name: str) -> Iterable[tuple[Kind, str]]:
        return [key for key in self._regions if key[0] == kind and name in ("", key[1])]
