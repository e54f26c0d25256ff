"""The ways of starting a tritonserver on which one contract is proved, and what each calls things.

A test asks its ground for a server and for faults; it does not know what that means there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engine import Engine
from tests.launchers.processes import eventually
from tritonfleet.launchers.base import Launcher, LaunchOptions, RunningServer
from tritonfleet.launchers.readiness import free_ports
from tritonfleet.plugins import lookup
from tritonfleet.spec.containers import ContainerSpec


@dataclass
class Ground:
    """One launcher, and one way of using it."""

    launcher_name: str
    repository: Path
    state: Path
    container: ContainerSpec = field(default_factory=ContainerSpec)
    engine: Engine | None = None
    """Of containers; None where a server is a child of ours."""
    started: list[RunningServer] = field(default_factory=list)

    @property
    def contained(self) -> bool:
        """Whether servers run in containers."""
        return self.engine is not None

    @property
    def launcher(self) -> Launcher:
        """A new launcher."""
        return lookup("launchers", self.launcher_name)()

    def options(self, name: str = "gpu0", **changes: Any) -> LaunchOptions:
        """A server as the tests want it; ``changes`` of LaunchOptions, or of its container."""
        known = LaunchOptions.__slots__
        of_container = {key: changes.pop(key) for key in list(changes) if key not in known}
        changes.setdefault("container", self.container.model_copy(update=of_container))
        options = LaunchOptions(name, self.repository, self.state)
        return replace(options, **changes)

    async def start(self, name: str = "gpu0", **changes: Any) -> RunningServer:
        """A server that is stopped when the test is over."""
        server = await self.launcher.start(self.options(name, **changes))
        self.started.append(server)
        return server

    def offer_ports(self, monkeypatch: pytest.MonkeyPatch, takes: list[dict[str, int]]) -> list:
        """Has the next starts pick these ports, one after the other; returns what is left."""
        offers = [replace(free_ports(), **taken) for taken in takes]
        for module in list(sys.modules.values()):
            if module.__name__.startswith("tritonfleet.") and hasattr(module, "free_ports"):
                monkeypatch.setattr(
                    module, "free_ports", lambda *args: offers.pop() if offers else free_ports()
                )
        return offers

    async def sweep(self) -> None:
        """Stops whatever the test has started and not stopped."""
        for server in self.started:
            await server.stop(0)

    def leftovers(self) -> list[str]:
        """Everything on this machine that mentions the test's folder, and should not any more."""
        folder = self.state.parent
        containers = self.engine.containers_of(folder) if self.engine else []
        return [*map(str, naming(folder)), *containers]

    async def is_clean(self) -> bool:
        """Whether nothing is left, perhaps after a while."""
        return await eventually(lambda: self.leftovers() == [])


def instance(server: RunningServer) -> str:
    """The ``--id`` of a server that runs on this machine."""
    (found,) = (
        argument.removeprefix("--id=")
        for argument in psutil.Process(server.endpoint.pid).cmdline()
        if argument.startswith("--id=")
    )
    return found


def naming(folder: Path) -> list[int]:
    """The processes whose command line mentions the folder, or that run in it."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = [*(process.info["cmdline"] or ()), process.info["cwd"] or ""]
        if any(str(folder) in word for word in words):
            found.append(process.pid)
    return found
