"""One address for Prometheus: our own metrics, and those of Envoy and of every tritonserver.

Envoy's are behind a Unix socket and an embedded server's port is another with each start, so both
are relayed, and ``/metrics/targets`` tells Prometheus (``http_sd_configs``) which there are.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp import web

from tritonfleet.controller.controller import Controller
from tritonfleet.errors import ServerTimeout, ServerUnreachable
from tritonfleet.gateway.desk import Desk
from tritonfleet.gateway.envoy.admin import Admin
from tritonfleet.gateway.metrics import CONTENT_TYPE, exposition, snapshot
from tritonfleet.gateway.problems import refusal

_TIMEOUT_S = 5.0
_HEADERS = {"Content-Type": CONTENT_TYPE}


class Scraping:
    """What Prometheus asks for. ``fleet`` and ``version`` say whose metrics they are."""

    def __init__(
        self, controller: Controller, desk: Desk, envoy: Admin, *, fleet: str, version: str
    ) -> None:
        self._controller, self._desk, self._envoy = controller, desk, envoy
        self._fleet, self._version = fleet, version

    def add_to(self, app: web.Application) -> None:
        """Adds the paths to an application."""
        app.router.add_get("/metrics", self.ours)
        app.router.add_get("/metrics/targets", self.targets)
        app.router.add_get("/metrics/envoy", self.envoy)
        app.router.add_get("/metrics/servers/{server}", self.server)

    async def ours(self, _: web.Request) -> web.Response:
        """Residency, and what came to Python."""
        told = snapshot(self._controller, self._desk, fleet=self._fleet, version=self._version)
        return web.Response(body=await exposition(told), headers=_HEADERS)

    async def targets(self, request: web.Request) -> web.Response:
        """Where the rest is, as Prometheus wants to be told of it."""
        servers = [server.name for server in self._controller.ledger.servers]
        found = [
            _target(request.host, "/metrics", {"job": "tritonfleet"}),
            _target(request.host, "/metrics/envoy", {"job": "envoy"}),
            *(
                _target(request.host, f"/metrics/servers/{name}", {"job": "triton", "server": name})
                for name in servers
            ),
        ]
        return web.json_response(found)

    async def envoy(self, _: web.Request) -> web.Response:
        """What Envoy says of itself; 502 while it is away."""
        return web.Response(body=await self._envoy.prometheus(), headers=_HEADERS)

    async def server(self, request: web.Request) -> web.Response:
        """What one tritonserver says of itself; 502 while it is down."""
        name = request.match_info["server"]
        servers = [server.name for server in self._controller.ledger.servers]
        if name not in servers:
            return refusal(f"there is no server {name!r}, only {', '.join(servers)}", 404)
        address = self._controller.endpoint(name).metrics
        if address is None:
            return refusal(f"nobody has said where {name} keeps its metrics: 'metrics_url'", 404)
        return web.Response(body=await _fetched(name, address), headers=_HEADERS)


def _target(host: str, path: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"targets": [host], "labels": {"__metrics_path__": path, **labels}}


async def _fetched(server: str, address: str) -> bytes:
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        # A connection for each scrape: a server that has restarted is another one.
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{address}/metrics") as answer,
        ):
            answer.raise_for_status()
            return await answer.read()
    except asyncio.TimeoutError:
        raise ServerTimeout(server, "metrics", _TIMEOUT_S) from None
    except aiohttp.ClientError as error:
        raise ServerUnreachable(server, address) from error
