"""Keeps the processes of a fleet running, and takes them down in good order.

The parent of everything: tritonservers, Envoy and the brain. It takes no decision about models and
no part in requests, so that there is little in it that could fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tritonfleet import talk
from tritonfleet.errors import FleetError, InvalidSpec, Problem
from tritonfleet.facts import access_log, deployed, wants_rate_limit
from tritonfleet.gateway.access_plan import read_access
from tritonfleet.gateway.envoy.files import Share, remove, run_folder
from tritonfleet.gateway.envoy.process import EnvoyOptions
from tritonfleet.gateway.envoy.program import Program, find_program
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.orders import Order
from tritonfleet.parts import AttachedEnvoy, BrainChild, BrainHere, EnvoyProxy, Part, Tritonserver
from tritonfleet.ports import Reservation
from tritonfleet.settings import Settings
from tritonfleet.spec import FleetSpec, ServerSpec
from tritonfleet.spec.references import read_header

log = logging.getLogger(__name__)
RESTART_FIRST_S = 0.5
RESTART_LONGEST_S = 30.0
HEALTHY_S = 10.0
"""What ran so long starts its restart back-off anew."""
_TAIL_LINES = 5
_LOOPBACK = "127.0.0.1"


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next restart: at first not at all, then ever longer."""

    next_s: float = 0.0

    def pause_s(self, ran_s: float) -> float:
        """The pause after a run of so many seconds."""
        pause = 0.0 if ran_s > HEALTHY_S else self.next_s
        self.next_s = min(max(2 * pause, RESTART_FIRST_S), RESTART_LONGEST_S)
        return pause


class Fleet:
    """A running fleet: tritonservers, brain and Envoy, as one thing to start and stop.

    ``folder`` is what paths in the fleet file are relative to. ``isolated`` gives the brain a
    process of its own.
    """

    def __init__(
        self, spec: FleetSpec, settings: Settings, folder: Path, *, isolated: bool = False
    ) -> None:
        self.spec, self.settings, self._folder = spec, settings, folder
        self.repository = settings.repository.resolve()
        self._keepers: list[asyncio.Task[None]] = []
        self._reservations: list[Reservation] = []
        self._share: Share | None = None
        servers = deployed(spec.servers, settings)
        self.servers = {server.name: self._tritonserver(server, servers) for server in servers}
        brain = BrainChild if isolated else BrainHere
        self.brain: BrainHere | BrainChild = brain(self._order)
        envoy = AttachedEnvoy if settings.attached_envoy else EnvoyProxy
        self.envoy: AttachedEnvoy | EnvoyProxy = envoy(self._envoy_options)
        self.program: Program

    # -- starting and stopping ---------------------------------------------------------------

    async def start(self) -> None:
        """Brings everything up, or takes down what came up and raises why the rest did not."""
        try:
            self._reserve_ports()
            if self.settings.attached_envoy:
                self._share = await asyncio.to_thread(Share, self._run_folder())
            # The brain reads it for itself; what is wrong with it is told before anything starts.
            await asyncio.to_thread(read_access, self.spec.access, self._folder)
            self.program = await find_program(self.settings.envoy)
            await _all(server.start() for server in self.servers.values())
            await self.brain.start()
            await self.envoy.start()
        except BaseException:
            await self.stop()
            raise
        for server in self.servers.values():
            server.brain = self.brain
        parts: tuple[Part, ...] = (*self.servers.values(), self.brain, self.envoy)
        self._keepers = [asyncio.create_task(_logged(keep(part))) for part in parts]
        talk.publish_addresses(self.settings.state_dir, self.addresses)

    async def stop(self) -> None:
        """Turns new requests away, lets those under way finish, then stops the servers."""
        (self.settings.state_dir / talk.ADDRESSES_NAME).unlink(missing_ok=True)
        for task in self._keepers:
            task.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        grace_s = self.settings.stop_grace_s
        await self.envoy.stop(grace_s)
        await self.brain.stop(grace_s)
        await _all(server.stop(grace_s) for server in self.servers.values())
        await asyncio.to_thread(self._leave_run_folder)
        for reservation in self._reservations:
            reservation.release()

    # -- what people want to know --------------------------------------------------------------

    @property
    def addresses(self) -> talk.Addresses:
        """Where the fleet listens."""
        return talk.expected_addresses(self.settings, tls=self.spec.access.tls is not None)

    @property
    def access_log(self) -> Path | None:
        """A line for each request, where that is wanted."""
        return access_log(self.settings)

    @property
    def envoy_log(self) -> Path:
        """What Envoy says of itself."""
        return self._envoy_options().log

    def log_files(self) -> dict[str, Path | None]:
        """Where each server's output goes; None for one that we did not start."""
        running = {name: server.running for name, server in self.servers.items()}
        return {name: each.log_file for name, each in running.items() if each}

    def onnxruntime_backends(self) -> dict[str, str]:
        """What runs the ONNX models of each server that we started."""
        running = {name: server.running for name, server in self.servers.items()}
        told = {name: each.onnxruntime_backend for name, each in running.items() if each}
        return {name: backend for name, backend in told.items() if backend}

    # -- what the parts are told ---------------------------------------------------------------

    def _tritonserver(self, server: ServerSpec, servers: tuple[ServerSpec, ...]) -> Tritonserver:
        settings = self.settings
        options = LaunchOptions(
            name=server.name,
            repository=self.repository,
            state_dir=settings.state_dir.resolve(),
            rate_limit=wants_rate_limit(self.spec),
            model_load_thread_count=max(4, settings.concurrent_loads),
            onnxruntime_backend=settings.onnxruntime_backend,
            load_thread_count=settings.concurrent_loads,
            exit_timeout_s=settings.stop_grace_s,
            http_url=server.http_url,
            grpc_url=server.grpc_url,
            metrics_url=server.metrics_url,
            admin_secret=self._admin_secret(server),
            container=server.container,
            image=settings.image,
            triton_release=settings.triton_release,
            siblings=tuple(each.name for each in servers if each.launcher == server.launcher),
        )
        return Tritonserver(server, options)

    def _admin_secret(self, server: ServerSpec) -> str | None:
        if server.admin_secret is None:
            return None
        what = f"the admin secret of server '{server.name}'"
        return read_header(what, server.admin_secret, self._folder)

    def _reserve_ports(self) -> None:
        """Fails before anything heavy is started if our ports are taken; 0 becomes a real one."""
        settings, ports = self.settings, {}
        for key, host in self._listened():
            flag = f"--{key.replace('_', '-')}"
            self._reservations.append(Reservation(host, getattr(settings, key), flag))
            ports[key] = self._reservations[-1].port
        self.settings = settings.model_copy(update=ports)

    def _listened(self) -> Iterator[tuple[str, str]]:
        """Which ports are ours to take, and where."""
        yield "control_port", _LOOPBACK
        for key in ("http_port", "grpc_port"):
            if not self.settings.attached_envoy:
                yield key, self.settings.host
            elif getattr(self.settings, key) == 0:
                cause = "0 picks another each time, and an attached Envoy stays"
                raise InvalidSpec("the settings", (Problem(key, cause),))

    def _run_folder(self) -> Path:
        return run_folder(self.settings.state_dir, shared=self.settings.attached_envoy)

    def _leave_run_folder(self) -> None:
        if not self.settings.attached_envoy:
            remove(self._run_folder())
        elif self._share:
            self._share.end()

    def _order(self) -> Order:
        links = tuple(server.link for server in self.servers.values() if server.link)
        return Order(self.spec, self.settings, self._folder, links, self.program)

    def _envoy_options(self) -> EnvoyOptions:
        settings, tls = self.settings, self.spec.access.tls
        key = (self._folder / tls.private_key).resolve() if tls else None
        return EnvoyOptions(
            program=self.program,
            folder=self._run_folder(),
            state_dir=settings.state_dir,
            host=settings.host,
            ports={"http": settings.http_port, "grpc": settings.grpc_port},
            concurrency=settings.envoy_concurrency or os.cpu_count() or 1,
            reads=(settings.state_dir.resolve(), *([key.parent] if key else [])),
        )


async def keep(part: Part, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Restarts a part that ends, ever more slowly when it keeps ending."""
    backoff, loop = Backoff(), asyncio.get_running_loop()
    while True:
        started = loop.time()
        status = await part.wait()
        tail = part.log_tail(_TAIL_LINES)
        log.error("%s %s.%s", part.name, _end(part, status), tail and f" Last lines:\n{tail}")
        await part.lost()
        await _restart(part, backoff, loop.time() - started, sleep)


def _end(part: Part, status: int) -> str:
    if part.attached:
        return "does not answer any more, or was restarted; waiting for it"
    return f"exited status={status}; restarting"


async def _restart(
    part: Part, backoff: Backoff, ran_s: float, sleep: Callable[[float], Awaitable[None]]
) -> None:
    while True:
        await sleep(backoff.pause_s(ran_s))
        ran_s = 0.0
        try:
            await part.start()
        except FleetError as error:
            log.error("%s does not start: %s", part.name, error)
            continue
        log.warning("%s is back", part.name)
        return


async def _logged(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception:  # a part that nobody keeps any more must not go unnoticed
        log.exception("the keeper of a part failed")
        raise


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Waits for all, and only then raises the first failure."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


@contextlib.asynccontextmanager
async def running_fleet(
    spec: FleetSpec, settings: Settings, folder: Path | None = None, *, isolated: bool = False
) -> AsyncIterator[Fleet]:
    """A fleet that runs as long as the block does.

    ``folder`` is what paths in the fleet file are relative to, the working directory where none is
    given; ``isolated`` gives the brain a process of its own.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    fleet = Fleet(spec, settings, folder or Path.cwd(), isolated=isolated)
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.stop()
