"""``tritonfleet serve``: a fleet until Ctrl-C, and what its user must know to call it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tritonfleet.errors import FleetError
from tritonfleet.options import settings_options
from tritonfleet.server.layout import published_models
from tritonfleet.server.pbtxt import datatype, read_config
from tritonfleet.settings import (
    DEFAULT_FLEET_FILE,
    Settings,
    resolve_settings,
)
from tritonfleet.spec import FleetSpec, load_fleet
from tritonfleet.supervisor import Fleet, running_fleet

_GREETING = "Hello, fleet"
_SOME = 5
"""Names of tenants that a line of the table has room for."""


@click.command()
@click.option("--fleet", "-f", "fleet_file", envvar="TRITONFLEET_FLEET", show_envvar=True,
              default=DEFAULT_FLEET_FILE, show_default=True,
              type=click.Path(path_type=Path), help="The fleet file.")  # fmt: skip
@settings_options
def serve(fleet_file: Path, **flags: Any) -> None:
    """Launch Triton and serve every model of a fleet at one address."""
    spec = load_fleet(fleet_file)
    settings = resolve_settings(spec.settings, flags)
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    asyncio.run(_serve(spec, settings, fleet_file.resolve().parent))


async def _serve(spec: FleetSpec, settings: Settings, folder: Path) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for warning in warnings(spec, settings):
        console.print(f"warning: {warning}", style="yellow", markup=False)
    task = asyncio.current_task()
    assert task
    for number in (signal.SIGINT, signal.SIGTERM):
        # A second signal cuts the graceful stop short; the servers end with this process anyway.
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        async with running_fleet(spec, settings, folder, isolated=True) as fleet:
            console.print(_addresses(fleet))
            console.print(example(spec, fleet.repository, fleet.addresses.gateway), markup=False)
            console.print("Ctrl-C stops the fleet.", style="dim")
            try:
                await asyncio.Event().wait()
            finally:
                console.print("stopping; requests in flight may finish …", style="dim")


# -- warnings --------------------------------------------------------------------------------


def warnings(spec: FleetSpec, settings: Settings) -> Iterator[str]:
    """What the user may not have meant."""
    missing = sorted(set(spec.models) - set(published_models(settings.repository)))
    if missing:
        yield f"not built, and so not available: {', '.join(missing)}. Run 'tritonfleet build'."
    if _beyond_loopback(settings.host):
        yield from _open_doors(spec, settings.host)


def _open_doors(spec: FleetSpec, host: str) -> Iterator[str]:
    access = spec.access
    mutual = access.tls is not None and access.tls.client_ca is not None
    if not access.tenants and not mutual:
        yield (
            f"whoever reaches {host} may call every model, and load and unload them. "
            "Declare tenants, or a client_ca, under 'access' in the fleet file."
        )
    if access.tls is None:
        what = "keys and tensors" if access.tenants else "tensors"
        yield f"{what} travel unencrypted. Declare a certificate under 'access: tls'."


def _beyond_loopback(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


# -- where everything is ---------------------------------------------------------------------


def _addresses(fleet: Fleet) -> Table:
    table = Table(title=f"fleet '{fleet.spec.name}'", title_justify="left", show_header=False)
    for what, where in _rows(fleet):
        table.add_row(what, where)
    return table


def _rows(fleet: Fleet) -> Iterator[tuple[str, str]]:
    addresses = fleet.addresses
    yield "models (Open Inference Protocol)", f"{addresses.gateway}/v2"
    yield "the same over gRPC", addresses.grpc
    yield "who may call", _callers(fleet.spec)
    yield "control API (loopback only)", f"{addresses.control}/v1/status"
    for name, log_file in fleet.log_files().items():
        yield f"tritonserver '{name}'", f"log: {log_file or 'its own'}"
    for name, backend in fleet.onnxruntime_backends().items():
        yield f"ONNX models of '{name}'", backend
    yield f"Envoy {fleet.program.version}", f"log: {fleet.envoy_log}"
    yield "access log", _access_log(fleet)


def _callers(spec: FleetSpec) -> str:
    access = spec.access
    mutual = access.tls is not None and access.tls.client_ca is not None
    by = " with a certificate of the client_ca" if mutual else ""
    if not access.tenants:
        return f"everybody who reaches it{by}"
    names = list(access.tenants)
    more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
    return f"the tenants {', '.join(names[:_SOME])}{more}{by}"


def _access_log(fleet: Fleet) -> str:
    notable = " (errors, cold starts and refusals only)"
    if fleet.access_log is None:
        return "off"
    return f"{fleet.access_log}{notable if fleet.settings.access_log == 'notable' else ''}"


def _program() -> str:
    """What to type to call this program: its name, or its path where no shell would find it."""
    path = os.path.relpath(Path(sys.executable).with_name("tritonfleet"))
    return "tritonfleet" if shutil.which("tritonfleet") else path


def example(spec: FleetSpec, repository: Path, gateway: str) -> str:
    """How to call a model of a fleet that takes text, or whichever comes first."""
    for model, entry in spec.models.items():
        text_input = _text_input(repository, model) if entry.members else None
        if text_input:
            tensor = {"name": text_input, "shape": [1, 1], "datatype": "BYTES", "data": [_GREETING]}
            url = f"{gateway}/v2/models/{model}/infer"
            curl = f"curl -s {url} -d '{json.dumps({'inputs': [tensor]})}'"
            return f"{curl}\n{_program()} infer {model} '{_GREETING}'"
    return f"curl -s {gateway}/v2/models/{next(iter(spec.models))}"


def _text_input(repository: Path, model: str) -> str | None:
    """The input of a model that takes one text and nothing else."""
    with contextlib.suppress(FleetError):
        config = read_config(repository, model)
        if [datatype(tensor.data_type) for tensor in config.input] == ["BYTES"]:
            return str(config.input[0].name)
    return None
