"""The composition root of ``tritonfleet serve``: builds all parts, joins them, takes them down.

Everything else is handed what it needs; only this module knows all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import click
from aiohttp import web
from rich.console import Console
from rich.table import Table

from tritonfleet import plugins, talk
from tritonfleet.controller.controller import Controller, ProcessMemory, ServerHandle
from tritonfleet.controller.footprint import (
    FootprintStore,
    Home,
    PublishedDigests,
    known_footprint,
)
from tritonfleet.controller.ledger import Ledger, ModelFacts, ServerFacts
from tritonfleet.errors import FleetError, PortTaken
from tritonfleet.gateway.activator import Activator
from tritonfleet.gateway.control import ControlApi
from tritonfleet.gateway.relay import Relay
from tritonfleet.launchers.base import LaunchOptions, RunningServer
from tritonfleet.server.client import TritonClient
from tritonfleet.server.layout import (
    model_versions,
    published_models,
    read_manifest,
    replace_text,
)
from tritonfleet.server.pbtxt import datatype, read_config
from tritonfleet.settings import (
    DEFAULT_FLEET_FILE,
    OnnxruntimeBackend,
    Settings,
    resolve_settings,
)
from tritonfleet.spec import FleetSpec, PythonSource, ServerSpec, TokenizerSource, load_fleet

log = logging.getLogger(__name__)
RESTART_FIRST_S = 0.5
RESTART_LONGEST_S = 30.0
HEALTHY_S = 60.0
"""A server that ran so long starts its restart back-off anew."""
SAVE_S = 1.0
"""Measured footprints are written so much later, all that came meanwhile at once."""
_GREETING = "Hello, fleet"


class Fleet:
    """A running fleet: tritonservers, controller and gateway, as one thing to start and stop."""

    def __init__(self, spec: FleetSpec, settings: Settings) -> None:
        self.spec, self.settings = spec, settings
        self.repository = settings.repository.resolve()
        self._footprints = FootprintStore(settings.state_dir / "footprints.json")
        self._digests = PublishedDigests(self.repository)
        self._saving: asyncio.Task[None] | None = None
        self._pins_file = settings.state_dir / "pins.json"
        self._running: dict[str, RunningServer] = {}
        self._supervisors: list[asyncio.Task[None]] = []
        self._runners: list[web.AppRunner] = []
        self._relay = Relay()
        self.controller: Controller
        self.gateway_url = ""
        self.control_url = ""

    # -- starting and stopping ---------------------------------------------------------------

    async def start(self) -> None:
        """Brings everything up, or takes down what came up and raises why the rest did not."""
        try:
            await self._check_ports()
            await self._launch_all()
            await self._start_controller()
            await self._relay.start()
            await self._listen()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Lets requests in flight finish, then stops the servers."""
        for task in self._supervisors:
            task.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        for runner in self._runners:
            await runner.cleanup()
        if hasattr(self, "controller"):
            await self.controller.stop()
        await self._relay.stop()
        if self._saving is not None:
            self._saving.cancel()
        await self._save_footprints()
        grace = self.settings.stop_grace_s
        await asyncio.gather(*(server.stop(grace) for server in self._running.values()))
        self._running.clear()
        (self.settings.state_dir / talk.ADDRESSES_NAME).unlink(missing_ok=True)

    def log_files(self) -> dict[str, Path | None]:
        """Where each server's output goes; None for one that we did not start."""
        return {name: running.log_file for name, running in self._running.items()}

    def onnxruntime_backends(self) -> dict[str, str]:
        """What runs the ONNX models of each server that we started."""
        backends = {name: each.onnxruntime_backend for name, each in self._running.items()}
        return {name: backend for name, backend in backends.items() if backend}

    async def _check_ports(self) -> None:
        """Fails before anything heavy is started if our ports are taken."""
        for port, flag in ((self.settings.http_port, "--http-port"),
                           (self.settings.control_port, "--control-port")):  # fmt: skip
            if port:
                host = self.settings.host if flag == "--http-port" else "127.0.0.1"
                await _probe_port(host, port, flag)

    async def _launch_all(self) -> None:
        launched = await asyncio.gather(
            *(self._launch(server) for server in self.spec.servers), return_exceptions=True
        )
        for server, outcome in zip(self.spec.servers, launched, strict=True):
            if not isinstance(outcome, BaseException):
                self._running[server.name] = outcome
        for outcome in launched:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _launch(self, server: ServerSpec) -> RunningServer:
        launcher = plugins.lookup("launchers", server.launcher)()
        running: RunningServer = await launcher.start(
            LaunchOptions(
                name=server.name,
                repository=self.repository,
                state_dir=self.settings.state_dir.resolve(),
                rate_limit=self._wants_rate_limit(),
                model_load_thread_count=max(4, self.settings.concurrent_loads),
                onnxruntime_backend=self.settings.onnxruntime_backend,
                load_thread_count=self.settings.concurrent_loads,
                exit_timeout_s=self.settings.stop_grace_s,
                http_url=server.http_url,
                grpc_url=server.grpc_url,
            )
        )
        return running

    def _wants_rate_limit(self) -> bool:
        groups = (g for name in self.spec.models for g in self.spec.serving(name).instance_group)
        return any(group.rate_limiter is not None for group in groups)

    async def _start_controller(self) -> None:
        self.controller = Controller(
            self._ledger(),
            {name: _handle(name, running) for name, running in self._running.items()},
            configs=lambda model: read_config(self.repository, model),
            record=self._record_footprint,
            queue_timeout_s=self.settings.queue_timeout_s,
            load_timeout_s=self.settings.load_timeout_s,
        )
        declared = [name for name in self.spec.models if self.spec.residency(name).pinned]
        await self.controller.start([*declared, *self._saved_pins()])
        self._supervisors = [
            asyncio.create_task(_logged(self._supervise(server))) for server in self.spec.servers
        ]

    def _ledger(self) -> Ledger:
        entries = read_manifest(self.repository).models
        models = [
            ModelFacts(
                name,
                known_footprint(
                    self.spec, name, entries.get(name), self._footprints, self._home(name)
                ),
                self.spec.residency(name).priority,
                self.spec.requires(name),
                self.spec.limits(name).max_concurrency,
                self.spec.limits(name).queue_limit,
            )
            for name in self.spec.models
        ]
        servers = [
            ServerFacts(
                server.name,
                server.budget,
                self.settings.concurrent_loads,
                server.capacity - server.budget,
                server.head_room_bytes,
            )
            for server in self.spec.servers
        ]
        return Ledger(
            models,
            servers,
            plugins.lookup("policies", self.settings.policy)(),
            patience_s=self.settings.patience_s,
            min_residency_s=self.settings.min_residency_s,
        )

    async def _listen(self) -> None:
        activator = Activator(
            self.controller,
            self._relay,
            version=version("tritonfleet"),
            configs=lambda model: read_config(self.repository, model),
            versions=lambda model: model_versions(self.repository / model),
            timeouts_s={
                name: limit
                for name in self.spec.models
                if (limit := self.spec.limits(name).timeout_s) is not None
            },
        )
        control = ControlApi(
            self.controller,
            fleet=self.spec.name,
            gateway=lambda: self.gateway_url,
            descriptions={name: model.description for name, model in self.spec.models.items()},
            save_pins=self._save_pins,
        )
        self.gateway_url = await self._site(
            activator.application(), self.settings.host, self.settings.http_port, "--http-port"
        )
        self.control_url = await self._site(
            control.application(), "127.0.0.1", self.settings.control_port, "--control-port"
        )
        addresses = talk.Addresses(self.control_url, self.gateway_url)
        talk.publish_addresses(self.settings.state_dir, addresses)

    async def _site(self, app: web.Application, host: str, port: int, flag: str) -> str:
        runner = web.AppRunner(
            app,
            access_log=None,
            auto_decompress=False,  # bodies pass through as they came
            handler_cancellation=True,  # a client that gives up is forgotten at once
            shutdown_timeout=self.settings.stop_grace_s,
        )
        await runner.setup()
        self._runners.append(runner)
        try:
            await web.TCPSite(runner, host, port, backlog=1024).start()
        except OSError as error:
            raise PortTaken(host, port, flag) from error
        address = runner.addresses[0]
        return f"http://{address[0]}:{address[1]}"

    # -- servers that die ----------------------------------------------------------------------

    async def _supervise(self, server: ServerSpec) -> None:
        """Restarts a server that exits, ever more slowly when it keeps exiting."""
        pause, loop = RESTART_FIRST_S, asyncio.get_running_loop()
        while True:
            started, running = loop.time(), self._running[server.name]
            status = await running.wait()
            tail = running.log_tail(5)
            log.error(
                "server=%s exited status=%s; restarting. Last lines:\n%s", server.name, status, tail
            )
            await self.controller.server_lost(server.name)
            if loop.time() - started > HEALTHY_S:
                pause = RESTART_FIRST_S
            pause = await self._restart(server, pause)

    async def _restart(self, server: ServerSpec, pause: float) -> float:
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, RESTART_LONGEST_S)
            try:
                self._running[server.name] = await self._launch(server)
            except FleetError as error:
                log.error("server=%s does not start: %s", server.name, error)
                continue
            self.controller.server_back(
                server.name, _handle(server.name, self._running[server.name])
            )
            log.warning("server=%s is back", server.name)
            return pause

    # -- what survives a restart ---------------------------------------------------------------

    def _home(self, model: str) -> Home:
        """Where a model will live, as far as that can be told before it is loaded."""
        if isinstance(self.spec.models[model].source, PythonSource | TokenizerSource):
            return Home.PROCESS
        # A server that we did not start says of itself where its models are; see the controller.
        told = all(running.events is not None for running in self._running.values())
        return Home.SERVER if told else Home.PROCESS

    def _record_footprint(self, model: str, home: Home, footprint: int) -> int:
        declared = self.spec.residency(model).footprint
        if declared is not None:
            return max(footprint, declared)
        charge = self._footprints.record(model, self._digests.of(model), home, footprint)
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save_soon())
        return charge

    async def _save_soon(self) -> None:
        await asyncio.sleep(SAVE_S)
        await self._save_footprints()

    async def _save_footprints(self) -> None:
        text = self._footprints.unsaved()
        if text is not None:
            await asyncio.to_thread(self._footprints.save, text)

    def _saved_pins(self) -> list[str]:
        try:
            pins = json.loads(self._pins_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [str(name) for name in pins if name in self.spec.models]

    def _save_pins(self, pinned: frozenset[str]) -> None:
        declared = {name for name in self.spec.models if self.spec.residency(name).pinned}
        replace_text(self._pins_file, json.dumps(sorted(pinned - declared)) + "\n")


async def _logged(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception:  # a server without supervisor must not go unnoticed
        log.exception("the supervisor of a server failed")
        raise


def _handle(name: str, running: RunningServer) -> ServerHandle:
    pid = running.endpoint.pid
    memory = ProcessMemory(pid) if pid is not None else None
    return ServerHandle(TritonClient(name, running.endpoint), memory, running.events)


async def _probe_port(host: str, port: int, flag: str) -> None:
    try:
        server = await asyncio.start_server(lambda *_: None, host, port)
    except OSError as error:
        raise PortTaken(host, port, flag) from error
    server.close()
    await server.wait_closed()


@contextlib.asynccontextmanager
async def running_fleet(spec: FleetSpec, settings: Settings) -> AsyncIterator[Fleet]:
    """A fleet that runs as long as the block does."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    fleet = Fleet(spec, settings)
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.stop()


# -- the command -----------------------------------------------------------------------------


@click.command()
@click.option("--fleet", "-f", "fleet_file", envvar="TRITONFLEET_FLEET", show_envvar=True,
              default=DEFAULT_FLEET_FILE, show_default=True,
              type=click.Path(path_type=Path), help="The fleet file.")  # fmt: skip
@click.option("--repository", type=click.Path(path_type=Path), help="The Triton model repository.")
@click.option("--host", help="Where the gateway listens.")
@click.option("--http-port", type=int, help="The gateway's port; 0 picks one.")
@click.option("--control-port", type=int, help="The control API's port; 0 picks one.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Logs, footprints and pins.")
@click.option(
    "--onnxruntime-backend",
    type=click.Choice(get_args(OnnxruntimeBackend)),
    help="What runs ONNX models on an embedded server; auto: native where it can.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
def serve(fleet_file: Path, **flags: Any) -> None:
    """Launch Triton and serve every model of a fleet at one address."""
    spec = load_fleet(fleet_file)
    settings = resolve_settings(spec.settings, flags)
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    asyncio.run(_serve(spec, settings))


async def _serve(spec: FleetSpec, settings: Settings) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    _warn_unbuilt(spec, settings.repository, console)
    task = asyncio.current_task()
    assert task
    for number in (signal.SIGINT, signal.SIGTERM):
        # A second signal cuts the graceful stop short; the servers end with this process anyway.
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        async with running_fleet(spec, settings) as fleet:
            console.print(_addresses(fleet))
            console.print(_example(fleet), markup=False)
            console.print("Ctrl-C stops the fleet.", style="dim")
            try:
                await asyncio.Event().wait()
            finally:
                console.print("stopping; requests in flight may finish …", style="dim")


def _warn_unbuilt(spec: FleetSpec, repository: Path, console: Console) -> None:
    missing = sorted(set(spec.models) - set(published_models(repository)))
    if missing:
        text = f"not built, and so not available: {', '.join(missing)}. Run 'tritonfleet build'."
        console.print(f"warning: {text}", style="yellow", markup=False)


def _addresses(fleet: Fleet) -> Table:
    table = Table(title=f"fleet '{fleet.spec.name}'", title_justify="left", show_header=False)
    table.add_row("models (Open Inference Protocol)", f"{fleet.gateway_url}/v2")
    table.add_row("control API", f"{fleet.control_url}/v1/status")
    for name, log_file in fleet.log_files().items():
        table.add_row(f"tritonserver '{name}'", f"log: {log_file or 'its own'}")
    for name, backend in fleet.onnxruntime_backends().items():
        table.add_row(f"ONNX models of '{name}'", backend)
    return table


def _program() -> str:
    """What to type to call this program: its name, or its path where no shell would find it."""
    path = os.path.relpath(Path(sys.executable).with_name("tritonfleet"))
    return "tritonfleet" if shutil.which("tritonfleet") else path


def _example(fleet: Fleet) -> str:
    """How to call a model of this fleet that takes text, or whichever comes first."""
    for model, spec in fleet.spec.models.items():
        text_input = _text_input(fleet.repository, model) if spec.members else None
        if text_input:
            tensor = {"name": text_input, "shape": [1, 1], "datatype": "BYTES", "data": [_GREETING]}
            url = f"{fleet.gateway_url}/v2/models/{model}/infer"
            curl = f"curl -s {url} -d '{json.dumps({'inputs': [tensor]})}'"
            return f"{curl}\n{_program()} infer {model} '{_GREETING}'"
    return f"curl -s {fleet.gateway_url}/v2/models/{next(iter(fleet.spec.models))}"


def _text_input(repository: Path, model: str) -> str | None:
    """The input of a model that takes one text and nothing else."""
    with contextlib.suppress(FleetError):
        config = read_config(repository, model)
        if [datatype(tensor.data_type) for tensor in config.input] == ["BYTES"]:
            return str(config.input[0].name)
    return None
