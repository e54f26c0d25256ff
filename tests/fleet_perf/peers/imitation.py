"""Systems for tests: a real HTTP server with a real LRU of models that are no models."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from fleet_perf.peers.client import Client
from fleet_perf.peers.job import Effort, Job
from fleet_perf.peers.processes import ProcessTree
from fleet_perf.peers.repository import TINY
from fleet_perf.peers.systems import LITSERVE, Budget, Running

JOB = Job(models=5, room=2, clients=2, network=TINY, tiny_models=3)
EFFORT = Effort(2, 3, 12, 5, 1, 10, 0.01)


@dataclass
class Imitation:
    """Speaks as the LitServe program does, and can be told to misbehave."""

    name: str = "imitation"
    ours: bool = False
    settings: str = "none"
    room: int = JOB.room
    failing: set[str] = field(default_factory=set)
    fails_from: int | None = None
    starts: list[Budget] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    resident: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def prepare(self, cache: Path, say: Any) -> None:
        pass

    def packages(self) -> tuple[str, ...]:
        return ("imitation==1",)

    @contextlib.asynccontextmanager
    async def running(
        self, job: Job, models: Path, folder: Path, budget: Budget
    ) -> AsyncIterator[Running]:
        self.starts.append(budget)
        self.resident.clear()
        app = web.Application()
        app.router.add_post("/predict", self.predict)
        async with TestServer(app) as server:
            url = f"http://{server.host}:{server.port}"
            yield Running(self.name, url, LITSERVE, ProcessTree(os.getpid()))

    async def predict(self, request: web.Request) -> web.Response:
        model = (await request.json())["model"]
        self.asked.append(model)
        worn_out = self.fails_from is not None and len(self.asked) >= self.fails_from
        if model in self.failing or worn_out:
            return web.json_response({"detail": "no"}, status=500)
        opened = model not in self.resident
        self.resident[model] = None
        self.resident.move_to_end(model)
        if len(self.resident) > self.room:
            self.resident.popitem(last=False)
        return web.json_response({"scores": [[0.0]], "opened": opened})


@contextlib.asynccontextmanager
async def asking(system: Imitation, tmp_path: Path, job: Job = JOB) -> AsyncIterator[Client]:
    """A client of an imitation that is up."""
    async with system.running(job, tmp_path, tmp_path, Budget(1, 1)) as running:
        async with Client(running, job) as client:
            yield client
