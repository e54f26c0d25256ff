"""A fleet for tests: the addresses and answers of a real one, over HTTP, without any Triton.

It loads on demand like the real one, counts what it answers, and can be told to misbehave.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from fleet_perf.fleet import RunningFleet
from tests.fleet_perf.builders import config, tensor
from tritonfleet.gateway.envoy.plan import RESIDENCY_HEADER, WAIT_HEADER


@dataclass
class Imitation:
    configs: dict[str, dict[str, Any]]
    unbuilt: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    pinned: set[str] = field(default_factory=set)
    resident: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    occupied: list[int] = field(default_factory=lambda: [0])
    decided: list[dict[str, Any]] = field(default_factory=list)
    counting: bool = True
    forgets_unloads: bool = False
    address: str = ""
    cold_starts: int = 0
    encodings: set[str] = field(default_factory=set)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/status", self.status)
        app.router.add_get("/v1/models/{model}/decisions", self.decisions)
        app.router.add_post("/v1/models/{model}/{verb}", self.act)
        app.router.add_get("/v2/models/{model}/config", self.config)
        app.router.add_get("/v2/models/{model}/stats", self.statistics)
        app.router.add_post("/v2/models/{model}/infer", self.infer)
        return app

    async def status(self, _: web.Request) -> web.Response:
        server = {"name": "s", "capacity_bytes": 100, "up": True, "http": self.address}
        server["grpc"] = self.address
        # The last figure stays; those before it are seen once each.
        occupied = self.occupied.pop(0) if len(self.occupied) > 1 else self.occupied[0]
        models = [
            {
                "name": name,
                "server": "s" if name in self.resident else None,
                "pinned": name in self.pinned,
                "reason": "a test",
            }
            for name in self.configs
        ]
        servers = [{**server, "occupied_bytes": occupied}]
        activator = {"requests": self.cold_starts}
        found = {"gateway": "", "servers": servers, "models": models, "activator": activator}
        return web.json_response(found)

    async def decisions(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        return web.json_response([one for one in self.decided if one["model"] == model])

    async def act(self, request: web.Request) -> web.Response:
        model, verb = request.match_info["model"], request.match_info["verb"]
        self.calls.append(f"{verb} {model}")
        if verb == "unload" and model in self.pinned:
            return web.json_response({"error": f"{model} is pinned"}, status=409)
        if verb == "unload" and not self.forgets_unloads:
            self.resident.discard(model)
        if verb in ("load", "pin"):
            self.resident.add(model)
        if verb in ("pin", "unpin"):
            (self.pinned.add if verb == "pin" else self.pinned.discard)(model)
        return web.json_response({})

    async def config(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        if model in self.unbuilt:
            return web.json_response({"error": f"{model} is not built"}, status=503)
        return web.json_response(self.configs[model])

    async def statistics(self, request: web.Request) -> web.Response:
        count = self.counts.get(request.match_info["model"], 0)
        phases = {"success": {"count": count, "ns": 1}, "fail": {"count": 0, "ns": 0}}
        version = {"inference_count": count, "inference_stats": phases}
        return web.json_response({"model_stats": [version]})

    async def infer(self, request: web.Request) -> web.Response:
        model, body = request.match_info["model"], await request.read()
        json.loads(body[: int(request.headers["Inference-Header-Content-Length"])])
        if model in self.failing:
            return web.json_response({"error": "no room"}, status=503)
        self.encodings.add(request.headers.get("Accept-Encoding", ""))
        cold = model not in self.resident
        self.cold_starts += cold
        self.resident.add(model)
        if self.counting:
            self.counts[model] = self.counts.get(model, 0) + 1
        headers = {
            RESIDENCY_HEADER: "cold" if cold else "warm",
            WAIT_HEADER: "1.5" if cold else "0",
        }
        return web.json_response({"outputs": []}, headers=headers)


def imitation(*models: str, **more: Any) -> Imitation:
    """A fleet of models with one small input each."""
    return Imitation({name: config(tensor("x", "FP32", [2]), name=name) for name in models}, **more)


@contextlib.asynccontextmanager
async def connected(fleet: Imitation) -> AsyncIterator[RunningFleet]:
    """The bench's view of an imitation, gateway and tritonserver being the same."""
    async with TestServer(fleet.application()) as server:
        fleet.address = f"{server.host}:{server.port}"
        url = f"http://{fleet.address}"
        async with RunningFleet(url, url) as running:
            yield running
