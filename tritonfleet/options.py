"""The options of commands that take a fleet and its settings, each of them a field of Settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from tritonfleet.settings import AccessLog, OnnxruntimeBackend

_PATH = click.Path(path_type=Path)


def _attached(
    context: click.Context, parameter: click.Parameter, flags: tuple[str, ...]
) -> dict[str, str] | None:
    """What --attach names; None where it was not given, so that the layers below count."""
    found: dict[str, str] = {}
    for flag in flags:
        name, separator, addresses = flag.partition("=")
        if not separator or name in found:
            wrong = f"names '{name}' twice" if separator else "is not NAME=HTTP,GRPC[,METRICS]"
            raise click.BadParameter(f"{flag!r} {wrong}", context, parameter)
        found[name] = addresses
    return found or None


_OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option("--repository", type=_PATH, help="The Triton model repository."),
    click.option("--host", help="Where the gateway listens."),
    click.option("--http-port", type=int, help="The gateway's HTTP port; 0 picks one."),
    click.option("--grpc-port", type=int, help="The gateway's gRPC port; 0 picks one."),
    click.option("--control-port", type=int, help="The control API's port; 0 picks one."),
    click.option("--launcher", help="How servers are started: embedded, container, or your own."),
    click.option("--image", help="The image of containers, for servers that name none."),
    click.option("--triton-release", help="The release of NVIDIA's image, where none is named."),
    click.option("--attach", multiple=True, metavar="NAME=HTTP,GRPC[,METRICS]", callback=_attached,
                 help="A server that runs already, with its addresses as host:port."),
    click.option("--admin-secret", metavar="env:NAME|file:PATH",
                 help="What opens the restricted APIs of attached servers."),
    click.option("--envoy", help="The Envoy to use: a path, or image:NAME for a container."),
    click.option("--attached-envoy", is_flag=True, default=None,
                 help="Envoy is run by 'tritonfleet envoy', elsewhere perhaps."),
    click.option("--access-log", type=click.Choice(get_args(AccessLog)),
                 help="Which requests are logged; notable: errors, cold starts and refusals."),
    click.option("--state-dir", type=_PATH, help="Logs, footprints and pins."),
    click.option("--onnxruntime-backend", type=click.Choice(get_args(OnnxruntimeBackend)),
                 help="What runs ONNX models on an embedded server; auto: native where it can."),
    click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"])),
)  # fmt: skip


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds them to a command, which gets the settings' names; None is what was not given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
