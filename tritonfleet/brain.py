"""The composition root of all that decides: builds the parts, joins them, takes them down.

Everything else is handed what it needs; only this module knows all of them. No warm request passes
through here, so the brain may end at any time: a new one takes the servers as they are.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aiohttp import web

from tritonfleet import plugins, talk
from tritonfleet.controller.controller import Controller, ProcessMemory, ServerHandle
from tritonfleet.controller.ledger import Ledger
from tritonfleet.controller.rollout import STATE_NAME as ROLLOUTS_NAME
from tritonfleet.controller.rollout import Rollouts, recorded_splits
from tritonfleet.errors import FleetError, PortTaken
from tritonfleet.facts import (
    access_log,
    deployed,
    gateway_plan,
    model_facts,
    server_addresses,
    server_facts,
)
from tritonfleet.gateway.access_plan import read_access
from tritonfleet.gateway.activator import Activator
from tritonfleet.gateway.control import ControlApi
from tritonfleet.gateway.desk import Desk, Rules
from tritonfleet.gateway.envoy.dataplane import DataPlane
from tritonfleet.gateway.envoy.files import run_folder
from tritonfleet.gateway.envoy.plan import Access, GatewayPlan
from tritonfleet.gateway.envoy.rotation import LogRotation
from tritonfleet.gateway.grpc_front import GrpcFront
from tritonfleet.gateway.relay import Relay
from tritonfleet.gateway.scraping import Scraping
from tritonfleet.gateway.shared_memory import SharedMemory
from tritonfleet.keepsakes import Footprints, Pins
from tritonfleet.orders import Order, Ready, ServerLink
from tritonfleet.server.client import TritonClient
from tritonfleet.server.events import ModelEvents
from tritonfleet.server.layout import model_versions, read_manifest
from tritonfleet.server.pbtxt import read_config

log = logging.getLogger(__name__)
_LOOPBACK = "127.0.0.1"
_BACKLOG = 1024
_MARGIN_S = 0.5
"""For connections to be closed once their requests are done."""
ACCESS_LOOK_S = 10.0
"""Between two looks at certificates and keys."""


class Brain:
    """Controller, desk, fronts, control API and Envoy's files, for servers that run already."""

    def __init__(self, order: Order) -> None:
        self.order, self.spec, self.settings = order, order.spec, order.settings
        self.repository = self.settings.repository.resolve()
        self.folder = run_folder(self.settings.state_dir, shared=self.settings.attached_envoy)
        self.addresses = talk.expected_addresses(
            self.settings, tls=self.spec.access.tls is not None
        )
        self._links = {link.name: link for link in order.servers}
        servers = deployed(self.spec.servers, self.settings)
        self._attached = {server.name for server in servers if server.launcher == "external"}
        self._events: dict[str, ModelEvents] = {}
        self._footprints = Footprints(
            self.spec,
            self.repository,
            self.settings.state_dir / "footprints.json",
            told=all(link.events for link in order.servers),
        )
        self._pins = Pins(self.spec, self.settings.state_dir / "pins.json")
        self._open = AsyncExitStack()
        """Whatever has to be closed, in the opposite order."""
        self._grace_s = 0.0
        self.data_plane: DataPlane
        self.controller: Controller
        self.desk: Desk
        self.activator: Activator
        self.grpc: GrpcFront

    # -- starting and stopping ---------------------------------------------------------------

    async def start(self) -> Ready:
        """Adopts what is resident and opens all sockets; Envoy's files are valid when it returns.

        Raises why it cannot, with nothing left open.
        """
        try:
            await self._write_envoys_files()
            await self._start_controller()
            await self._open_fronts()
        except BaseException:
            await self.stop(0)
            raise
        return Ready(os.getpid())

    async def stop(self, grace_s: float) -> None:
        """Lets requests under way finish, for so many seconds at most."""
        self._grace_s = grace_s
        await self._open.aclose()

    # -- servers that die ----------------------------------------------------------------------

    async def server_lost(self, name: str) -> None:
        """A tritonserver has died: whatever it was doing will not end."""
        self._links.pop(name, None)
        await self.controller.server_lost(name)
        events = self._events.pop(name, None)
        if events:
            events.close()

    async def server_back(self, link: ServerLink) -> None:
        """A tritonserver runs again, perhaps at another address."""
        self._links[link.name] = link
        await self.data_plane.set_servers(server_addresses(self._links.values()))
        await self.controller.server_back(link.name, await self._handle(link))
        await self.activator.restore(link.name)

    # -- Envoy's files -------------------------------------------------------------------------

    async def _write_envoys_files(self) -> None:
        """First of all: what an earlier brain had published stays so until we know better."""
        self.data_plane = DataPlane(
            self.folder,
            self.order.envoy,
            drain_timeout_s=self.settings.drain_timeout_s,
            log=self.settings.state_dir.resolve() / "logs" / "envoy.log",
        )
        self._open.push_async_callback(self.data_plane.close)
        log_file = access_log(self.settings)
        if log_file is not None:
            # Before Envoy is asked what it thinks of a file that names it.
            await asyncio.to_thread(_make_private, log_file)
            self._in_background(LogRotation(log_file, self.data_plane.admin).run())
        await self.data_plane.apply(await asyncio.to_thread(self._plan))
        for name, model in self.spec.models.items():
            if model.mirror is not None:
                await self.data_plane.mirror(name, model.mirror.percent)
        self._in_background(self._renew_access())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(work))
        self._open.callback(task.cancel)

    def _plan(self) -> GatewayPlan:
        links = self._links.values()
        splits = recorded_splits(self.settings.state_dir / ROLLOUTS_NAME)
        return gateway_plan(self.spec, self.settings, self.folder, links, self._access(), splits)

    def _access(self) -> Access:
        return read_access(self.spec.access, self.order.fleet_folder)

    async def _renew_access(self) -> None:
        """Puts certificates, keys and tokens' keys in force that were renewed on disk."""
        while True:
            await asyncio.sleep(ACCESS_LOOK_S)
            plan = self.data_plane.plan
            try:
                access = await asyncio.to_thread(self._access)
                if plan is not None and access != plan.access:
                    applied = await self.data_plane.apply(replace(plan, access=access))
                    when = "with the fleet's next start" if applied.restart else "now"
                    log.info("access renewed, in force %s", when)
            except FleetError as error:
                log.error("access stays as it was: %s", error)

    # -- the controller ------------------------------------------------------------------------

    async def _start_controller(self) -> None:
        handles = {link.name: await self._handle(link) for link in self.order.servers}
        self.controller = Controller(
            await asyncio.to_thread(self._ledger),
            handles,
            configs=lambda model: read_config(self.repository, model),
            record=self._footprints.record,
            endpoints=self.data_plane,
            rollouts=self._rollouts(),
            queue_timeout_s=self.settings.queue_timeout_s,
            load_timeout_s=self.settings.load_timeout_s,
        )
        self._open.push_async_callback(self._footprints.save)
        self._open.callback(self._close_events)
        self._open.push_async_callback(self.controller.stop)
        await self.controller.start(self._pins.load())
        self.data_plane.settle()
        for server in self.spec.servers:
            if server.name not in handles:  # it is being restarted just now
                await self.controller.server_lost(server.name)

    def _rollouts(self) -> Rollouts:
        return Rollouts(
            self.repository,
            rules=self.spec.rollout,
            state=self.settings.state_dir / ROLLOUTS_NAME,
            traffic=self.data_plane,
            watch=self.settings.watch_repository,
        )

    async def _handle(self, link: ServerLink) -> ServerHandle:
        pid, events = link.endpoint.pid, None
        if link.events is not None:
            events = self._events[link.name] = await ModelEvents.listen(link.events)
        memory = ProcessMemory(pid) if pid is not None else None
        client = TritonClient(link.name, link.endpoint)
        return ServerHandle(client, memory, events, attached=link.name in self._attached)

    def _close_events(self) -> None:
        for events in self._events.values():
            events.close()

    def _ledger(self) -> Ledger:
        entries = read_manifest(self.repository).models
        return Ledger(
            model_facts(
                self.spec,
                self.repository,
                lambda name: self._footprints.known(name, entries.get(name)),
            ),
            server_facts(self.spec, self.settings),
            plugins.lookup("policies", self.settings.policy)(),
            patience_s=self.settings.patience_s,
            min_residency_s=self.settings.min_residency_s,
        )

    # -- the fronts ----------------------------------------------------------------------------

    async def _open_fronts(self) -> None:
        plan = self.data_plane.plan
        assert plan, "Envoy's files come first"
        self.desk = Desk(self.controller, Rules.of(self.spec, self.settings))
        shared_memory = SharedMemory(self.controller, self.desk)
        relay = Relay()
        await relay.start()
        self._open.push_async_callback(relay.stop)
        self.activator = Activator(
            self.controller,
            self.desk,
            relay,
            shared_memory,
            version=version("tritonfleet"),
            configs=self._config,
            versions=self._versions,
        )
        self.grpc = GrpcFront(
            self.controller,
            self.desk,
            shared_memory,
            version=version("tritonfleet"),
            configs=self._config,
            versions=self._versions,
            max_request_bytes=self.settings.max_request_bytes,
        )
        await self._unix_site(self.activator.application(), plan.activator_http)
        await self._grpc_site(plan.activator_grpc)
        control = self._control_api().application()
        self._scraping().add_to(control)
        await self._control_site(control)

    def _control_api(self) -> ControlApi:
        return ControlApi(
            self.controller,
            self.desk,
            self.controller.rollouts,
            fleet=self.spec.name,
            addresses=lambda: self.addresses,
            descriptions={name: model.description for name, model in self.spec.models.items()},
            save_pins=self._pins.save,
        )

    def _scraping(self) -> Scraping:
        return Scraping(
            self.controller,
            self.desk,
            self.data_plane.admin,
            fleet=self.spec.name,
            version=version("tritonfleet"),
        )

    def _config(self, model: str) -> Any:
        return read_config(self.repository, model)

    def _versions(self, model: str) -> tuple[int, ...]:
        return model_versions(self.repository / model)

    async def _unix_site(self, app: web.Application, path: Path) -> None:
        runner = await self._runner(app)
        await asyncio.to_thread(path.unlink, missing_ok=True)  # of a predecessor that was killed
        await web.UnixSite(runner, str(path), backlog=_BACKLOG).start()
        await asyncio.to_thread(path.chmod, 0o600)

    async def _grpc_site(self, path: Path) -> None:
        await asyncio.to_thread(path.unlink, missing_ok=True)
        await self.grpc.start(path)
        self._open.push_async_callback(self._stop_grpc)

    async def _stop_grpc(self) -> None:
        await self.grpc.stop(self._grace_s)

    async def _control_site(self, app: web.Application) -> None:
        port, runner = self.settings.control_port, await self._runner(app)
        try:
            # The port is reserved by the supervisor, for whoever of ours asks for a share in it.
            site = web.TCPSite(runner, _LOOPBACK, port, backlog=_BACKLOG, reuse_port=True)
            await site.start()
        except OSError as error:
            raise PortTaken(_LOOPBACK, port, "--control-port") from error

    async def _runner(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(
            app,
            access_log=None,
            auto_decompress=False,  # bodies pass through as they came
            handler_cancellation=True,  # a client that gives up is forgotten at once
            shutdown_timeout=self.settings.stop_grace_s,
        )
        await runner.setup()
        self._open.push_async_callback(self._clean_up, runner)
        return runner

    async def _clean_up(self, runner: web.AppRunner) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(runner.cleanup(), self._grace_s + _MARGIN_S)


def _make_private(log_file: Path) -> None:
    """Sees to it before Envoy does that nobody else may read who called what."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.touch(mode=0o600)
    log_file.chmod(0o600)


async def _logged(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception:  # nobody waits for it, so nobody else would tell
        log.exception("a task of the brain failed")
