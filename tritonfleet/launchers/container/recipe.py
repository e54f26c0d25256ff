"""What the engine is told of a container. Pure: it asks nobody and starts nothing.

The body is that of the Engine API, version 1.41: "Create a container".
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.command import Invocation, Ports, tritonserver_command
from tritonfleet.launchers.engine.facts import EngineFacts, Image
from tritonfleet.launchers.native import NativeBackend
from tritonfleet.spec.containers import REPOSITORY, ContainerSpec

MANAGED = "io.tritonfleet.managed"
STATE = "io.tritonfleet.state"
SERVER = "io.tritonfleet.server"
INSTANCE = "io.tritonfleet.instance"
CONFIGURATION = "io.tritonfleet.configuration"
_IMAGE = "io.tritonfleet.image"
_CHECKS_ITSELF = "tritonserver-cpu"
_READ_ONLY = "io.tritonfleet.read-only"
_BACKEND = "io.tritonfleet.onnxruntime.backend"
_LIBRARY = "io.tritonfleet.onnxruntime.library"
_VERSION = "io.tritonfleet.onnxruntime.version"
_UNPRIVILEGED = 1000
"""The user ``triton-server`` of NVIDIA's images and of ours."""
_INSIDE = Ports(8000, 8001, 8002)
_EVERYWHERE = "0.0.0.0"
_ADVISED_ULIMITS = {"memlock": "-1", "stack": "67108864"}
_SECOND = 10**9
_LOG_SIZE, _LOG_FILES = "10m", "3"
# Whichever the image has; a container that lacks both is merely told unhealthy.
_PROBE = (
    "curl -fsS {url} || python3 -c "
    "\"import urllib.request; urllib.request.urlopen('{url}', timeout=4)\""
)


@dataclass(frozen=True, slots=True)
class User:
    """Whom a container's processes run as, inside and in the eyes of this machine."""

    uid: int
    gid: int
    host_uid: int | None
    """None where the engine maps users and this one is not known here."""
    host_gid: int | None

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


def container_user(wanted: str | None, uid: int, gid: int, engine: EngineFacts) -> User:
    """The user of a container, started by the user ``uid`` with the group ``gid``."""
    if wanted is None and engine.rootless:
        # Podman maps us to ourselves (keep-id); in rootless Docker we are called root, without
        # any of its powers.
        return User(uid, gid, uid, gid) if engine.podman else User(0, 0, uid, gid)
    inside = (uid, gid) if uid else (_UNPRIVILEGED, _UNPRIVILEGED)
    if wanted is not None:
        own, _, group = wanted.partition(":")
        inside = int(own), int(group or own)
    mapped = engine.rootless or engine.remapped
    return User(*inside, None, None) if mapped else User(*inside, *inside)


def container_name(server: str, state_dir: Path) -> str:
    """What the container of a server is called; one name for each server and state directory."""
    return f"tritonfleet-{server}-{state_digest(state_dir)[:8]}"


def state_digest(state_dir: Path) -> str:
    """Tells the containers of one state directory from those of all others."""
    return hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()


def fleet_labels(options: LaunchOptions) -> dict[str, str]:
    """What all containers bear that were ever made for this state directory."""
    return {MANAGED: "true", STATE: state_digest(options.state_dir)}


def own_labels(options: LaunchOptions) -> dict[str, str]:
    """What all containers bear that were ever made for this server of this fleet."""
    return {**fleet_labels(options), SERVER: options.name}


def native_backend(image: Image) -> NativeBackend | None:
    """Our native backend, in images that have it."""
    if image.labels.get(_BACKEND) != "native" or not image.labels.get(_LIBRARY):
        return None
    library = Path(image.labels[_LIBRARY])
    return NativeBackend(library=library, onnxruntime=library)


def onnxruntime_backend(image: Image) -> str:
    """What runs an image's ONNX models, for people."""
    if native_backend(image):
        return f"native backend, ONNX Runtime {image.labels.get(_VERSION, '?')}, in {image.name}"
    return f"that of the image {image.name}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that shapes a server's container, but for what each start chooses anew."""

    options: LaunchOptions
    image: Image
    user: User
    engine: EngineFacts
    events: Path | None = None
    """The socket on which the native backend tells of its models."""
    arguments: tuple[str, ...] = ()
    """Of tritonserver, beyond the usual: what the image and the repository need."""

    @property
    def spec(self) -> ContainerSpec:
        """What the fleet file says of the container."""
        return self.options.container

    @property
    def name(self) -> str:
        """The container's."""
        return container_name(self.options.name, self.options.state_dir)

    @property
    def published(self) -> bool:
        """Whether it has a network of its own, of which three ports are published."""
        return self.spec.network != "host"

    @property
    def configuration(self) -> str:
        """Digest of all that shapes the container: another means that it must be made anew."""
        body = self._body(Invocation("", Ports(0, 0, 0), "", self.events))
        text = json.dumps([self.image.id, self.spec.ports.model_dump(), body], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def body(self, invocation: Invocation) -> dict[str, Any]:
        """What the engine is told; it holds the admin secret: never log it."""
        labels = {
            **own_labels(self.options),
            INSTANCE: invocation.instance,
            CONFIGURATION: self.configuration,
        }
        return {**self._body(invocation), "Labels": labels}

    def _body(self, invocation: Invocation) -> dict[str, Any]:
        inside = self._inside(invocation)
        return {
            "Image": self.image.name,
            "Cmd": self._command(inside),
            "User": str(self.user),
            "Env": self._environment(),
            # That image finds out by itself where its server listens.
            **({} if self._checks_itself() else {"Healthcheck": _health_check(inside)}),
            "StopSignal": "SIGTERM",
            "StopTimeout": math.ceil(self.options.exit_timeout_s) + 5,
            "ExposedPorts": {f"{port}/tcp": {} for port in _numbers(inside.ports)}
            if self.published
            else {},
            "HostConfig": self._host_config(invocation),
        }

    def _checks_itself(self) -> bool:
        return self.image.labels.get(_IMAGE) == _CHECKS_ITSELF

    def _inside(self, invocation: Invocation) -> Invocation:
        """Where the server listens in its own network."""
        if self.published:
            return replace(invocation, address=_EVERYWHERE, ports=_INSIDE)
        return invocation

    def _command(self, inside: Invocation) -> list[str]:
        command = tritonserver_command(
            Path("tritonserver"),
            None,
            replace(self.options, repository=Path(REPOSITORY)),
            inside,
            gpu=bool(self.spec.gpus),
            native=native_backend(self.image),
        )
        return [*command, *self.arguments]

    def _environment(self) -> list[str]:
        # Where NVIDIA's runtime is the default one, its images ask for all GPUs by themselves.
        hidden = {} if self.spec.gpus else {"NVIDIA_VISIBLE_DEVICES": "void"}
        # A user without an entry in /etc/passwd has no other place that it may write to.
        variables = {"HOME": "/tmp", **self.spec.environment, **hidden}  # noqa: S108
        return [f"{name}={value}" for name, value in sorted(variables.items())]

    def _host_config(self, invocation: Invocation) -> dict[str, Any]:
        spec = self.spec
        return {
            "NetworkMode": spec.network,
            "PortBindings": self._port_bindings(invocation.ports) if self.published else {},
            "Mounts": self._mounts(),
            **_rights(self._read_only()),
            **self._limits(),
            **_gpus(spec, self.engine),
            "IpcMode": spec.ipc,
            **({"UsernsMode": "keep-id"} if self._keeps_ids() else {}),
            "RestartPolicy": {"Name": spec.restart, "MaximumRetryCount": 0},
            "LogConfig": {
                "Type": "json-file",
                "Config": {"max-size": _LOG_SIZE, "max-file": _LOG_FILES},
            },
        }

    def _keeps_ids(self) -> bool:
        return self.engine.podman and self.engine.rootless and self.spec.user is None

    def _read_only(self) -> bool:
        if self.spec.read_only is None:
            return self.image.labels.get(_READ_ONLY) == "true"
        return self.spec.read_only

    def _port_bindings(self, ports: Ports) -> dict[str, list[dict[str, str]]]:
        pairs = zip(_numbers(_INSIDE), _numbers(ports), strict=True)
        return {
            f"{inside}/tcp": [{"HostIp": self.spec.address, "HostPort": str(outside)}]
            for inside, outside in pairs
        }

    def _mounts(self) -> list[dict[str, Any]]:
        here = {str(self.options.repository): REPOSITORY, **self.spec.mounts}
        mounts = [_mount(source, target, read_only=True) for source, target in here.items()]
        if self.events:
            # Writing to the socket in it is all that the server does there.
            folder = str(self.events.parent)
            mounts.append(_mount(folder, folder, read_only=True))
        return mounts

    def _limits(self) -> dict[str, Any]:
        spec = self.spec
        limits: dict[str, Any] = {
            # No swap on top: a model that swaps is worse than one that is refused.
            "Memory": spec.memory,
            "MemorySwap": spec.memory,
            "NanoCpus": math.ceil(spec.cpus * 1e9) if spec.cpus else None,
            "CpusetCpus": spec.cpuset,
            "PidsLimit": spec.pids_limit,
            "ShmSize": spec.shm_size if spec.ipc == "private" else None,
            "Ulimits": self._ulimits(),
        }
        return {name: value for name, value in limits.items() if value is not None}

    def _ulimits(self) -> list[dict[str, Any]]:
        wanted = self.spec.ulimits
        if wanted is None:
            # Raising one takes a privilege that the engine of an ordinary user does not have.
            wanted = _ADVISED_ULIMITS if self.spec.gpus and not self.engine.rootless else {}
        return [_ulimit(name, text) for name, text in sorted(wanted.items())]


def _numbers(ports: Ports) -> tuple[int, int, int]:
    return ports.http, ports.grpc, ports.metrics


def _rights(read_only: bool) -> dict[str, Any]:
    return {
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": read_only,
        "Tmpfs": {"/tmp": "rw,nosuid,nodev,mode=1777"} if read_only else {},  # noqa: S108
    }


def _gpus(spec: ContainerSpec, engine: EngineFacts) -> dict[str, Any]:
    if not spec.gpus:
        return {}
    if engine.podman:  # by the names of the container device interface
        names = ("all",) if spec.gpus == "all" else spec.gpus
        devices = [f"nvidia.com/gpu={name}" for name in names]
        return {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": devices}]}
    # Without a driver, as 'docker run --gpus' does: the engine knows which of its drivers can.
    request: dict[str, Any] = {"Capabilities": [["gpu"]]}
    if spec.gpus == "all":
        return {"DeviceRequests": [{**request, "Count": -1}]}
    return {"DeviceRequests": [{**request, "DeviceIDs": list(spec.gpus)}]}


def _mount(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    # As a mount and not as a "bind": for one that is missing the engine would make a folder.
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}


def _ulimit(name: str, text: str) -> dict[str, Any]:
    soft, _, hard = text.partition(":")
    return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}


def _health_check(inside: Invocation) -> dict[str, Any]:
    address = "127.0.0.1" if inside.address == _EVERYWHERE else inside.address
    url = f"http://{bracketed(address)}:{inside.ports.http}/v2/health/ready"
    return {
        "Test": ["CMD-SHELL", _PROBE.format(url=url)],
        "Interval": 30 * _SECOND,
        "Timeout": 5 * _SECOND,
        "Retries": 3,
        "StartPeriod": 60 * _SECOND,
    }


def bracketed(address: str) -> str:
    """An address as it stands in front of a port."""
    return f"[{address}]" if ":" in address else address
