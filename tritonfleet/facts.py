"""What the parts of a fleet are told of its file and its settings. Decides nothing."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tritonfleet.controller.ledger import ModelFacts, ServerFacts
from tritonfleet.controller.versions import sequence_idle_s
from tritonfleet.errors import InvalidModelConfig, InvalidSpec, Problem
from tritonfleet.gateway.access_plan import tenants_of
from tritonfleet.gateway.envoy.plan import (
    Access,
    GatewayPlan,
    ModelPlan,
    ServerAddress,
    Split,
)
from tritonfleet.orders import ServerLink
from tritonfleet.server.layout import CONFIG_NAME
from tritonfleet.server.pbtxt import parse_config
from tritonfleet.settings import Settings
from tritonfleet.spec import FleetSpec, ServerSpec

ACCESS_LOG = "access.log"
"""Beside the logs of the servers."""
_ADDRESS = re.compile(r"[^\s,/]+:\d{1,5}")


def model_facts(
    spec: FleetSpec, repository: Path, footprint: Callable[[str], int]
) -> list[ModelFacts]:
    """Every model, as the ledger knows it."""
    return [
        ModelFacts(
            name,
            footprint(name),
            spec.residency(name).priority,
            spec.requires(name),
            spec.limits(name).max_concurrency,
            spec.limits(name).queue_limit,
            _state_idle_s(repository, name),
        )
        for name in spec.models
    ]


def _state_idle_s(repository: Path, model: str) -> float:
    """For how long a model may hold the state of a sequence; 0 where it has none."""
    with contextlib.suppress(OSError, UnicodeDecodeError, InvalidModelConfig):
        text = (repository / model / CONFIG_NAME).read_text(encoding="utf-8")
        # Few models have any, and parsing the others would delay the start of a large fleet.
        if "sequence_batching" in text:
            return sequence_idle_s(parse_config(model, text))
    return 0.0


def deployed(servers: Iterable[ServerSpec], settings: Settings) -> tuple[ServerSpec, ...]:
    """The servers as this process gets them: attached ones by address, others by its launcher.

    Raises InvalidSpec for an attached server that the fleet does not have, or a bad address.
    """
    declared = tuple(servers)
    names = [server.name for server in declared]
    problems = tuple(_attach_problems(settings.attach, names))
    if problems:
        raise InvalidSpec("the setting 'attach'", problems)
    return tuple(_deployed(server, settings) for server in declared)


def _deployed(server: ServerSpec, settings: Settings) -> ServerSpec:
    if addresses := settings.attach.get(server.name):
        http, grpc, *metrics = _addresses(addresses)
        found = {
            "launcher": "external",
            "http_url": http,
            "grpc_url": grpc,
            "metrics_url": metrics[0] if metrics else None,
            "admin_secret": settings.admin_secret or server.admin_secret,
        }
        return server.model_copy(update=found)
    if settings.launcher and server.launcher != "external":
        return server.model_copy(update={"launcher": settings.launcher})
    return server


def _attach_problems(attach: Mapping[str, str], names: Sequence[str]) -> Iterator[Problem]:
    for name, addresses in attach.items():
        parts = _addresses(addresses)
        if name not in names:
            known = f"the fleet has {', '.join(names)}"
            yield Problem(name, "there is no such server", suggestion=known)
        elif len(parts) not in (2, 3) or not all(_ADDRESS.fullmatch(part) for part in parts):
            yield Problem(
                name,
                f"{addresses!r} is not 'host:port,host:port'",
                suggestion="for HTTP and gRPC, and perhaps a third for metrics",
            )


def _addresses(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def server_facts(spec: FleetSpec, settings: Settings) -> list[ServerFacts]:
    """Every server, as the ledger knows it."""
    return [
        ServerFacts(
            server.name,
            server.budget,
            settings.concurrent_loads,
            server.capacity - server.budget,
            server.head_room_bytes,
        )
        for server in spec.servers
    ]


def wants_rate_limit(spec: FleetSpec) -> bool:
    """Whether instances share resources, which Triton must be told when it starts."""
    groups = (group for name in spec.models for group in spec.serving(name).instance_group)
    return any(group.rate_limiter is not None for group in groups)


def access_log(settings: Settings) -> Path | None:
    """Where Envoy writes a line for each request; None where it shall not."""
    if settings.access_log == "off":
        return None
    return settings.state_dir.resolve() / "logs" / ACCESS_LOG


def server_addresses(links: Iterable[ServerLink]) -> tuple[ServerAddress, ...]:
    """Where requests to resident models go."""
    return tuple(ServerAddress(link.name, link.endpoint.http, link.endpoint.grpc) for link in links)


def gateway_plan(
    spec: FleetSpec,
    settings: Settings,
    folder: Path,
    servers: Iterable[ServerLink],
    access: Access,
    splits: Mapping[str, tuple[int, int | None]],
) -> GatewayPlan:
    """All that Envoy's large files are generated from.

    ``splits`` are the versions, stable and canary, of models of which two are in service.
    """
    return GatewayPlan(
        folder=folder,
        host=settings.host,
        http_port=settings.http_port,
        grpc_port=settings.grpc_port,
        servers=server_addresses(servers),
        models=tuple(_model_plan(spec, name, splits.get(name)) for name in spec.models),
        access=access,
        max_request_bytes=settings.max_request_bytes,
        concurrency=settings.envoy_concurrency or os.cpu_count() or 1,
        access_log=access_log(settings),
        only_notable=settings.access_log == "notable",
    )


def _model_plan(spec: FleetSpec, name: str, versions: tuple[int, int | None] | None) -> ModelPlan:
    model = spec.models[name]
    return ModelPlan(
        name,
        limits=spec.limits(name),
        latency_class="batch" if model.labels.latency_class == "batch" else "interactive",
        has_fallback=bool(model.fallback),
        mirrored=model.mirror is not None,
        split=Split(*versions) if versions else None,
        tenants=tenants_of(spec.access, name),
    )
