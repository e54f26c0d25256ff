"""A fleet started for the measurements: its addresses, its processes, its log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fleet_perf.fleet import RunningFleet
from fleet_perf.peers.processes import ProcessTree
from fleet_perf.serving import started_fleet
from tritonfleet.errors import FleetError, Unstable

ENVOY, BRAIN, TRITON = "envoy", "brain", "tritonserver"
PROGRAMS = (ENVOY, BRAIN, TRITON)
BRAIN_MODULE = "tritonfleet.brain_process"
_LOADED, _UNLOADED = "successfully loaded '", "successfully unloaded '"


@dataclass(frozen=True, slots=True)
class Stand:
    """A running fleet with one server, and what only whoever has started it knows."""

    fleet: RunningFleet
    grpc: str
    """``host:port`` of the gateway."""
    server: str
    tree: ProcessTree
    log: Path
    """Of tritonserver."""

    @property
    def http(self) -> str:
        """``host:port`` of the gateway."""
        return self.fleet.gateway.removeprefix("http://")

    async def direct(self) -> Mapping[str, str]:
        """``http`` and ``grpc`` of the tritonserver behind the gateway, as ``host:port``."""
        return addresses_of(await self.fleet.status(), self.server)

    def pid(self, program: str) -> int:
        """The process that is one of PROGRAMS now; Unstable when it is not running."""
        for process in self.tree.processes():
            with contextlib.suppress(psutil.Error):  # ended since
                if is_program(program, process.name(), process.cmdline()):
                    return int(process.pid)
        raise Unstable("the fleet", f"{program} is not running")

    def pids(self) -> dict[str, int]:
        """All of PROGRAMS that run now."""
        found = {}
        for program in PROGRAMS:
            with contextlib.suppress(Unstable):
                found[program] = self.pid(program)
        return found

    def loads_and_unloads(self) -> tuple[int, int]:
        """Models that have come and gone so far, as Triton logs them."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return text.count(_LOADED), text.count(_UNLOADED)


def is_program(program: str, name: str, command: list[str]) -> bool:
    """Whether a process with this name and command line is one of PROGRAMS."""
    # Guards carry the command line of what they watch, so a name must be the process's own.
    if program == BRAIN:
        return any(BRAIN_MODULE in word for word in command[1:4])
    return name == program


def addresses_of(status: Mapping[str, Any], server: str) -> dict[str, str]:
    """Where a server listens, out of the fleet's status; Unstable while it is down."""
    for entry in status["servers"]:
        if entry["name"] == server and "http" in entry:
            return {protocol: str(entry[protocol]) for protocol in ("http", "grpc")}
    raise Unstable(server, "it is down")


def activator_requests(status: Mapping[str, Any]) -> int:
    """Requests that Python has seen so far."""
    return int(status["activator"]["requests"])


@contextlib.asynccontextmanager
async def stand(
    fleet_file: Path, repository: Path, folder: Path, server: str
) -> AsyncIterator[Stand]:
    """A fleet of its own on ports of its own choice, for as long as the block lasts."""
    state_dir = folder / "state"
    state_dir.mkdir(parents=True, exist_ok=True)
    async with started_fleet(fleet_file, repository, state_dir) as started:
        async with RunningFleet(started.control, started.gateway) as fleet:
            yield Stand(
                fleet,
                started.grpc,
                server,
                ProcessTree(started.pid),
                state_dir / "logs" / f"{server}.log",
            )


async def until_calm(measured: Stand, timeout_s: float = 60.0) -> None:
    """Returns when all programs run and the server is up; Unstable when that takes too long."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while asyncio.get_running_loop().time() < deadline:
        with contextlib.suppress(FleetError):
            await measured.direct()
            if len(measured.pids()) == len(PROGRAMS):
                return
        await asyncio.sleep(0.1)
    raise Unstable("the fleet", f"it is not complete again after {timeout_s:.0f} s")
