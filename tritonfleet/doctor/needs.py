"""What a fleet with its settings will ask of the machine. Looks at neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tritonfleet.facts import deployed
from tritonfleet.settings import Settings
from tritonfleet.spec import FleetSpec, ServerSpec
from tritonfleet.spec.traffic import AccessSpec

_OPEN = AccessSpec()
Gpus = tuple[str, ...] | Literal["all"]


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port that something of the fleet will listen on."""

    host: str
    number: int
    purpose: str
    setting: str


@dataclass(frozen=True, slots=True)
class Needs:
    """A fleet, as the checks see it."""

    settings: Settings
    servers: tuple[ServerSpec, ...]
    models: tuple[str, ...]
    """That the repository must have."""
    instances: int
    """Of all models together, were they all in memory."""
    most_instances: int
    """Of the model with the most."""
    access: AccessSpec = _OPEN
    folder: Path = Path()
    """Of the fleet file, which its references start from."""

    def launched_by(self, launcher: str) -> tuple[ServerSpec, ...]:
        """The servers of one launcher."""
        return tuple(server for server in self.servers if server.launcher == launcher)

    @property
    def containers(self) -> tuple[ServerSpec, ...]:
        """The servers that an engine runs."""
        return self.launched_by("container")

    @property
    def gpus(self) -> dict[str, Gpus]:
        """What servers ask for, by their names; those that need none are left out."""
        return {
            server.name: server.container.gpus
            for server in self.containers
            if server.container.gpus
        }

    @property
    def on_host_memory(self) -> tuple[ServerSpec, ...]:
        """The servers of this machine whose models live in its memory."""
        gpus = self.gpus
        return tuple(
            server
            for server in self.servers
            if server.launcher != "external" and server.name not in gpus
        )

    @property
    def uses_engine(self) -> bool:
        """Whether anything runs in a container that we start."""
        return bool(self.containers) or self.envoy_image is not None

    @property
    def envoy_image(self) -> str | None:
        """The image of Envoy, where it runs in one."""
        envoy = self.settings.envoy or ""
        return envoy.removeprefix("image:") if envoy.startswith("image:") else None

    @property
    def ports(self) -> tuple[Port, ...]:
        """Fixed ones; those that are picked when the fleet starts are free by themselves."""
        return tuple(port for port in (*self._own_ports(), *self._published()) if port.number)

    def _own_ports(self) -> Sequence[Port]:
        settings = self.settings
        control = Port("127.0.0.1", settings.control_port, "control API", "--control-port")
        if settings.attached_envoy:  # the others are taken by it already, here or elsewhere
            return (control,)
        return (
            Port(settings.host, settings.http_port, "gateway, HTTP", "--http-port"),
            Port(settings.host, settings.grpc_port, "gateway, gRPC", "--grpc-port"),
            control,
        )

    def _published(self) -> Sequence[Port]:
        return [
            Port(
                server.container.address,
                getattr(server.container.ports, kind),
                f"server '{server.name}', {kind}",
                f"container: ports: {kind} of server '{server.name}'",
            )
            for server in self.containers
            for kind in ("http", "grpc", "metrics")
        ]


def needs_of(spec: FleetSpec, settings: Settings, folder: Path = Path()) -> Needs:
    """What ``tritonfleet serve`` would ask for; InvalidSpec for an attached server of no fleet."""
    counts = [_instances(spec, model) for model in spec.models]
    return Needs(
        settings,
        deployed(spec.servers, settings),
        tuple(spec.models),
        sum(counts),
        max(counts, default=0),
        spec.access,
        folder,
    )


def _instances(spec: FleetSpec, model: str) -> int:
    if spec.models[model].members:
        return 0  # an ensemble has none of its own
    return sum(group.count for group in spec.serving(model).instance_group) or 1


def bare_machine(settings: Settings) -> Needs:
    """Where there is no fleet file yet: one server without a model."""
    server = ServerSpec(name="local", capacity=0)
    return Needs(settings, deployed((server,), settings), (), 0, 0)
