"""The systems that are compared: how each is started, asked, and understood."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fleet_perf.peers.environments import interpreter, packages, with_our_runtime
from fleet_perf.peers.job import Job
from fleet_perf.peers.processes import ProcessTree, started
from fleet_perf.peers.repository import SERVER, write_fleet
from fleet_perf.serving import started_fleet
from fleet_perf.warm import Say
from tritonfleet.gateway.envoy.plan import RESIDENCY_HEADER

Row = Sequence[int]
_LOADED = "successfully loaded '"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP POST."""

    path: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a request for one row is put, and whether an answer tells of a model that was absent."""

    request: Callable[[str, Row], Request]
    was_absent: Callable[[Mapping[str, str], bytes], bool]


@dataclass(frozen=True, slots=True)
class Running:
    """A system that is up."""

    name: str
    url: str
    dialect: Dialect
    tree: ProcessTree
    control: str | None = None
    """The control API of a fleet of ours."""
    log: Path | None = None
    """What the tritonserver of a fleet of ours writes."""

    def loads(self) -> int | None:
        """Models loaded so far, as Triton logs them; None for others, whose answers tell."""
        if self.log is None:
            return None
        return self.log.read_text(encoding="utf-8", errors="replace").count(_LOADED)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one of our fleets is told: its server's capacity, and the footprint of every model."""

    capacity: int
    footprint: int


class System(Protocol):
    """Something that serves many models from little memory."""

    @property
    def name(self) -> str:
        """In tables and on the command line."""

    @property
    def ours(self) -> bool:
        """Whether it is a fleet of ours; the others are peers."""

    @property
    def settings(self) -> str:
        """What was chosen for it, for whoever reads the tables."""

    def prepare(self, cache: Path, say: Say) -> None:
        """Installs what is not there yet; PeerMissing when that cannot be done."""

    def packages(self) -> tuple[str, ...]:
        """All that is installed in its environment, if that is not our own."""

    def running(
        self, job: Job, models: Path, folder: Path, budget: Budget
    ) -> contextlib.AbstractAsyncContextManager[Running]:
        """The system for as long as the block lasts; its address may not answer yet."""


_JSON = {"Content-Type": "application/json"}


def _fleet_request(model: str, row: Row) -> Request:
    tensor = {"name": "ids", "shape": [1, len(row)], "datatype": "INT64", "data": row}
    return Request(f"/v2/models/{model}/infer", _json({"inputs": [tensor]}), _JSON)


def _litserve_request(model: str, row: Row) -> Request:
    return Request("/predict", _json({"model": model, "ids": [row]}), _JSON)


def _ray_request(model: str, row: Row) -> Request:
    return Request("/", _json({"ids": [row]}), {**_JSON, "serve_multiplexed_model_id": model})


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


def _told_by_gateway(headers: Mapping[str, str], _: bytes) -> bool:
    return headers.get(RESIDENCY_HEADER) == "cold"


def _told_by_app(_: Mapping[str, str], content: bytes) -> bool:
    return bool(json.loads(content)["opened"])


FLEET = Dialect(_fleet_request, _told_by_gateway)
LITSERVE = Dialect(_litserve_request, _told_by_app)
RAY = Dialect(_ray_request, _told_by_app)


@dataclass(frozen=True, slots=True)
class FleetSystem:
    """``tritonfleet serve`` with one of the two backends for ONNX models."""

    name: str
    backend: str
    settings: str
    ours: bool = True

    def prepare(self, cache: Path, say: Say) -> None:
        """Nothing: whoever runs this has it."""

    def packages(self) -> tuple[str, ...]:
        """None apart from ours."""
        return ()

    @contextlib.asynccontextmanager
    async def running(
        self, job: Job, models: Path, folder: Path, budget: Budget
    ) -> AsyncIterator[Running]:
        """A fleet of the job's models, on ports and in folders of its own."""
        async with self.serving(job.names, models, folder, budget) as running:
            yield running

    @contextlib.asynccontextmanager
    async def serving(
        self, names: Sequence[str], models: Path, folder: Path, budget: Budget
    ) -> AsyncIterator[Running]:
        """A fleet of any of the repository's models."""
        file = folder / "fleet.yaml"
        write_fleet(file, names, budget.capacity, budget.footprint)
        environment = {"TRITONFLEET_ONNXRUNTIME_BACKEND": self.backend}
        state = folder / "state"
        async with started_fleet(file, models, state, environment) as fleet:
            tree, log = ProcessTree(fleet.pid), state / "logs" / f"{SERVER}.log"
            yield Running(self.name, fleet.gateway, FLEET, tree, fleet.control, log)


@dataclass(slots=True)
class PeerSystem:
    """One of the programs under ``apps``, in an environment of its own."""

    name: str
    app: str
    requirements: tuple[str, ...]
    dialect: Dialect
    settings: str
    environment: Callable[[Path], Mapping[str, str]] = lambda _: {}
    ours: bool = False
    _python: Path | None = None

    def prepare(self, cache: Path, say: Say) -> None:
        """Installs the peer; several systems of the same requirements share an environment."""
        place = self.requirements[0].partition("==")[0].partition("[")[0]
        self._python = interpreter(cache, place, with_our_runtime(*self.requirements), say)

    def packages(self) -> tuple[str, ...]:
        """All that pip has installed for it."""
        return () if self._python is None else packages(self._python)

    @contextlib.asynccontextmanager
    async def running(
        self, job: Job, models: Path, folder: Path, budget: Budget
    ) -> AsyncIterator[Running]:
        """The peer's program on a port of its own."""
        assert self._python is not None, "prepare() comes first"
        port = free_port()
        # Ray's sockets lie in here, and a socket's path may not have more than 107 characters.
        with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as private:
            command = [
                str(self._python), "-m", f"fleet_perf.peers.apps.{self.app}",
                "--port", str(port), "--models", str(models),
                "--room", str(job.room), "--folder", private,
            ]  # fmt: skip
            environment = {**os.environ, **self.environment(Path(private)), **_path(folder)}
            async with started(command, environment, folder) as tree:
                yield Running(self.name, f"http://127.0.0.1:{port}", self.dialect, tree)


def _path(folder: Path) -> dict[str, str]:
    """Makes the programs importable, and of all that is installed beside us nothing else."""
    package = Path(sys.modules["fleet_perf"].__path__[0]).resolve()
    link = folder / "path" / "fleet_perf"
    link.parent.mkdir(exist_ok=True)
    if not link.exists():
        link.symlink_to(package)
    return {"PYTHONPATH": str(link.parent.resolve()), "PYTHONDONTWRITEBYTECODE": "1"}


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _ray_environment(_: Path) -> dict[str, str]:
    return {"RAY_USAGE_STATS_ENABLED": "0"}


def _haproxy_environment(private: Path) -> dict[str, str]:
    """Ray's documented switches for throughput; HAProxy's files and ports are its own."""
    folder = private / "haproxy"
    return {
        **_ray_environment(private),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
    }


NATIVE, PYTHON = "native", "python"
_RAY = ("ray[serve]==2.60.0",)
_RAY_SETTINGS = (
    "one replica, max_num_models_per_replica = room, models opened in a thread, no dashboard, one "
    "logical CPU (one idle worker at most), no access log, no usage statistics"
)


def all_systems() -> dict[str, System]:
    """Everything that can be compared, by name."""
    ours = "tritonfleet serve, defaults, max_batch_size 8, no dynamic batching"
    systems: tuple[System, ...] = (
        FleetSystem(NATIVE, "native", f"{ours}, native backend"),
        FleetSystem(PYTHON, "python", f"{ours}, python-based backend"),
        PeerSystem("ray", "ray_app", _RAY, RAY, _RAY_SETTINGS, _ray_environment),
        PeerSystem(
            "ray-haproxy", "ray_app", _RAY, RAY,
            f"{_RAY_SETTINGS}; HAProxy ingress and RAY_SERVE_THROUGHPUT_OPTIMIZED",
            _haproxy_environment,
        ),
        PeerSystem(
            "litserve", "litserve_app", ("litserve==0.2.19",), LITSERVE,
            "one worker with an LRU of room sessions, one HTTP server, no access log, its default "
            "queue (ZeroMQ costs more CPU here)",
        ),
    )  # fmt: skip
    return {system.name: system for system in systems}
