"""How full a fleet's servers are while something else happens: what is charged, and what is held.

Samples the control API, and, where tritonserver runs on this machine, the memory of its processes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from fleet_perf.fleet import RunningFleet
from tritonfleet.errors import FleetError
from tritonfleet.server.memory import model_memory_bytes, server_memory_bytes

STATUS_EVERY_S = 0.05
# Reading the memory maps of ten processes takes milliseconds of a core that is being measured.
MEMORY_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class ServerOccupancy:
    """The most that was seen on one server, in bytes."""

    server: str
    capacity: int
    occupied: int
    """Charged by the controller, models on their way in or out included."""
    models: int | None
    """Held by the models' own processes; None where that cannot be told."""
    whole: int | None
    """Held by tritonserver and the models, shared pages in proportion."""

    @property
    def within_capacity(self) -> bool:
        """Whether the budget held in every sample."""
        return self.occupied <= self.capacity


class Watch:
    """Samples while it runs, and remembers the largest figures."""

    def __init__(self, fleet: RunningFleet) -> None:
        self._fleet = fleet
        self.samples = 0
        self._seen: dict[str, ServerOccupancy] = {}

    @property
    def servers(self) -> tuple[ServerOccupancy, ...]:
        """One entry for each server."""
        return tuple(self._seen.values())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Watch]:
        """Samples as long as the block lasts: at its start, at its end and in between."""
        await self.sample()
        tasks = [asyncio.create_task(self._occupied()), asyncio.create_task(self._held())]
        try:
            yield self
            await self._sample_memory(await self.sample())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def sample(self) -> dict[str, Any]:
        """Looks at the servers' sums once; gives the status they were taken from."""
        status = await self._fleet.status()
        self.samples += 1
        for server in status["servers"]:
            self._note(server["name"], server["capacity_bytes"], server["occupied_bytes"])
        return status

    async def _occupied(self) -> None:
        while True:
            await asyncio.sleep(STATUS_EVERY_S)
            with contextlib.suppress(FleetError):  # a lost sample is no reason to end the run
                await self.sample()

    async def _held(self) -> None:
        while True:
            with contextlib.suppress(FleetError):
                await self._sample_memory(await self.sample())
            await asyncio.sleep(MEMORY_EVERY_S)

    async def _sample_memory(self, status: dict[str, Any]) -> None:
        # Found anew each time: a server that was restarted is another process.
        pids = await asyncio.to_thread(_local_pids, status)
        for server, pid in pids.items():
            loaded = [m["name"] for m in status["models"] if m["server"] == server]
            models, whole = await asyncio.to_thread(_held_bytes, pid, loaded)
            known = self._seen[server]
            self._note(server, known.capacity, known.occupied, models, whole)

    def _note(
        self,
        server: str,
        capacity: int,
        occupied: int,
        models: int | None = None,
        whole: int | None = None,
    ) -> None:
        known = self._seen.get(server) or ServerOccupancy(server, capacity, 0, None, None)
        self._seen[server] = ServerOccupancy(
            server,
            capacity,
            max(occupied, known.occupied),
            _larger(models, known.models),
            _larger(whole, known.whole),
        )


def _larger(one: int | None, other: int | None) -> int | None:
    return max((size for size in (one, other) if size is not None), default=None)


def _held_bytes(pid: int, models: Sequence[str]) -> tuple[int, int | None]:
    each = (model_memory_bytes(pid, model) or 0 for model in models)
    return sum(each), server_memory_bytes(pid)


def _local_pids(status: dict[str, Any]) -> dict[str, int]:
    """The process behind each server that listens on this machine, where we may see it."""
    ports = {
        int(server["http"].rpartition(":")[2]): str(server["name"])
        for server in status["servers"]
        if "http" in server
    }
    try:
        listening = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return {}
    pids = {}
    for found in listening:
        # (address, port); an empty tuple for a socket that is not bound
        name = ports.get(found.laddr[1]) if len(found.laddr) > 1 else None
        if name and found.pid and found.status == psutil.CONN_LISTEN:
            pids[name] = found.pid
    return pids
