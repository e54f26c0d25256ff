"""What all attempts of one container's start share: the site, the engine and the recipe."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tritonfleet.errors import ContainerFailed, LaunchError, LauncherUnavailable, PortTaken
from tritonfleet.launchers import logs
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.command import ADMIN_KEY, Invocation, Ports, shared_memory_prefix
from tritonfleet.launchers.container.recipe import (
    CONFIGURATION,
    INSTANCE,
    SERVER,
    Recipe,
    bracketed,
    container_name,
    container_user,
    fleet_labels,
    native_backend,
    onnxruntime_backend,
    own_labels,
)
from tritonfleet.launchers.container.site import LAUNCHER, Site, can_listen, check_readable
from tritonfleet.launchers.engine.facts import OUT_OF_MEMORY, Container, Gone
from tritonfleet.launchers.process import GuardedProcess, Order
from tritonfleet.launchers.readiness import PORT_TAKEN, free_ports
from tritonfleet.launchers.releases import check_image
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.server.events import ModelEvents
from tritonfleet.server.releases import numbers, official_image

if TYPE_CHECKING:  # at run time only where the SDK is installed
    from tritonfleet.launchers.engine.client import Engine

log = logging.getLogger(__name__)
PORTS_SETTING = "container.ports"
KEEPER_GRACE_S = 60.0
"""How long the keeper gets to clear up; by far the most of it is the engine's time."""
# Requests in flight when we are killed get so long.
_ORPHAN_GRACE_S = 5.0
_KEEPER = "tritonfleet.launchers.engine.keeper"
_TAIL_LINES = 20
_VERSION_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"
# Older ones take the request of the Docker API and do nothing about it.
_PODMAN_WITH_GPUS = (5, 4)
_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Plan:
    """One server's container, and everything around it."""

    site: Site
    engine: Engine
    recipe: Recipe

    @classmethod
    def of(cls, site: Site, engine: Engine) -> Plan:
        """Checks what would only fail later, and less clearly."""
        options, spec = site.options, site.options.container
        _check_gpus(options, engine)
        image = engine.image(_image_name(options), spec.pull)
        facts = check_image(options, image.name, image.config)
        user = container_user(spec.user, os.getuid(), os.getgid(), engine.facts)
        name = container_name(options.name, options.state_dir)
        check_readable(name, options.repository, user)
        told = native_backend(image) is not None and can_listen(user)
        events = site.events_socket() if told else None
        arguments = (_VERSION_COMPATIBLE,) if facts.version_compatible else ()
        return cls(site, engine, Recipe(options, image, user, engine.facts, events, arguments))

    @property
    def keeps(self) -> bool:
        """Whether the container outlives us."""
        return self.recipe.spec.keep

    @property
    def backend(self) -> str:
        """What runs its ONNX models, for people."""
        return onnxruntime_backend(self.recipe.image)

    @property
    def fixed_ports(self) -> dict[str, int]:
        """Those that the fleet file names."""
        chosen = self.recipe.spec.ports.model_dump()
        return {name: port for name, port in chosen.items() if port}

    @property
    def log_size(self) -> int:
        """Where in the log the next output will be."""
        return self.site.log.stat().st_size if self.site.log.exists() else 0

    # -- before the start ----------------------------------------------------------------------

    def new_invocation(self) -> Invocation:
        """An identity, a secret, and ports that are free where none are fixed."""
        address = self.recipe.spec.address
        try:
            free = free_ports(address)
        except OSError as error:
            cause = f"no port can be opened at 'address' {address}: {error.strerror}"
            raise ContainerFailed(self.recipe.name, cause, "Name one of this machine.") from error
        return Invocation(
            f"tritonfleet-{secrets.token_hex(6)}",
            Ports(**{**asdict(free), **self.fixed_ports}),
            secrets.token_hex(16),
            self.recipe.events,
            address,
        )

    async def listen(self) -> ModelEvents | None:
        """The socket of its models, where the image's backend knows of it."""
        if self.recipe.events is None:
            return None
        return await self.site.listen(self.recipe.events, self.recipe.user)

    async def keeper(
        self, invocation: Invocation, lock: int, since: float | None = None
    ) -> GuardedProcess:
        """Starts the process that sees the container through; its output is the log."""
        self.site.log.parent.mkdir(parents=True, exist_ok=True)
        return await GuardedProcess.start(self._order(invocation, since), self.site.log, lock)

    def _order(self, invocation: Invocation, since: float | None) -> Order:
        told = {
            "engine": self.recipe.spec.engine,
            "label": f"{INSTANCE}={invocation.instance}",
            "instance": invocation.instance,
            "since": since,
            "grace": _ORPHAN_GRACE_S,
        }
        options = [f"--{name}={value}" for name, value in told.items() if value is not None]
        events = invocation.events
        return Order(
            argv=[sys.executable, "-m", _KEEPER, *options, *(["--keep"] if self.keeps else [])],
            env=dict(os.environ),
            cwd=str(self.site.folder),
            shared_memory_prefix="" if self.keeps else shared_memory_prefix(invocation.instance),
            events_folder=str(events.parent) if events and not self.keeps else "",
            orphan_grace_s=KEEPER_GRACE_S,
        )

    # -- with the engine -----------------------------------------------------------------------

    def create(self, invocation: Invocation) -> str:
        """A container that does not run yet; its id."""
        if self.keeps:
            self.site.note(invocation)
        name, body = self.recipe.name, self.recipe.body(invocation)
        return self.engine.create(name, body, PORTS_SETTING)

    def start(self, container: str) -> None:
        """Runs it; ContainerFailed or PortTaken when the engine refuses."""
        self.engine.start(container, self.recipe.name, PORTS_SETTING)

    def adoptable(self) -> tuple[Container, Invocation] | None:
        """A running container of ours that is as a new one would be, and how to reach it."""
        noted = self.site.noted(self.recipe.events, self.recipe.spec.address)
        if not self.keeps or noted is None:
            return None
        wanted = {CONFIGURATION: self.recipe.configuration, INSTANCE: noted.instance}
        for container in self._own():
            if container.running and wanted.items() <= container.labels.items():
                return container, noted
        return None

    def clear(self) -> None:
        """Removes what is left of this server's containers; nobody else's is ever touched."""
        for container in self._own():
            self._remove(container)
        self.site.forget()

    def clear_strays(self) -> None:
        """Removes containers that were kept for servers which the fleet does not have any more."""
        siblings = self.site.options.siblings
        if not siblings:
            return
        for container in self.engine.find(fleet_labels(self.site.options)):
            if container.labels.get(SERVER) not in siblings:
                self._remove(container)

    def _remove(self, container: Container) -> None:
        log.info("container=%s status=%s is removed", container.name, container.status)
        if container.running:
            self.end(container.id, _ORPHAN_GRACE_S)
        self.engine.remove(container.id)

    def end(self, container: str, grace_s: float) -> None:
        """Ends the server; requests in flight get ``grace_s`` seconds."""
        with contextlib.suppress(Gone):
            self.engine.stop(container, grace_s)

    def _own(self) -> list[Container]:
        return self.engine.find(own_labels(self.site.options))

    # -- afterwards ----------------------------------------------------------------------------

    def endpoint(self, invocation: Invocation) -> Endpoint:
        """Where the server is reached."""
        host = bracketed(_REACHED_AT.get(invocation.address, invocation.address))
        ports = invocation.ports
        return Endpoint(
            http=f"{host}:{ports.http}",
            grpc=f"{host}:{ports.grpc}",
            metrics=f"{host}:{ports.metrics}",
            admin_key=ADMIN_KEY,
            admin_secret=invocation.admin_secret,
        )

    def with_pid(self, endpoint: Endpoint, container: str, instance: str) -> Endpoint:
        """The endpoint with tritonserver's process, if that runs on this machine."""
        with contextlib.suppress(Gone):
            return replace(endpoint, pid=server_pid(self.engine.inspect(container).pid, instance))
        return endpoint

    def ended(self, status: int, log_start: int) -> LaunchError:
        """Why the container ended before it served."""
        tail = logs.tail(self.site.log, _TAIL_LINES, log_start)
        taken = PORT_TAKEN.search(tail)
        if taken:
            return PortTaken(taken[1], int(taken[2]), PORTS_SETTING)
        if OUT_OF_MEMORY in tail:
            return self.failed(f"it {OUT_OF_MEMORY} before it served", log_start, "Raise 'memory'.")
        return self.failed(f"it ended with status {status} before it served", log_start)

    def failed(self, cause: str, log_start: int, hint: str = "") -> ContainerFailed:
        """The error, with the end of what the container wrote."""
        whole = f"The whole log is in {self.site.log}."
        tail = logs.tail(self.site.log, _TAIL_LINES, log_start)
        return ContainerFailed(self.recipe.name, cause, f"{hint} {whole}".strip(), tail)


def _check_gpus(options: LaunchOptions, engine: Engine) -> None:
    facts = engine.facts
    if options.container.gpus and facts.podman and numbers(facts.version) < _PODMAN_WITH_GPUS:
        raise LauncherUnavailable(
            LAUNCHER,
            f"server '{options.name}' is to have GPUs, and Podman {facts.version} at "
            f"{engine.address} would start its container without any",
            "Use Podman 5.4 or newer, or Docker.",
        )


def _image_name(options: LaunchOptions) -> str:
    return options.container.image or options.image or official_image(options.triton_release)


def server_pid(first: int, instance: str) -> int | None:
    """The tritonserver among a container's processes; None when they are not on this machine."""
    with contextlib.suppress(psutil.Error, ValueError):
        process = psutil.Process(first)
        for each in (process, *process.children(recursive=True)):
            program, *arguments = each.cmdline() or [""]
            if Path(program).name == "tritonserver" and f"--id={instance}" in arguments:
                return each.pid
    return None
