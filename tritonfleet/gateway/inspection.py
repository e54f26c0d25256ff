"""What can be asked about the fleet and its models over HTTP, without running one.

Of a model in memory Triton itself tells; of any other the repository does, in the same words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web

from tritonfleet.controller.controller import Controller
from tritonfleet.errors import ServerUnreachable, VersionNotFound
from tritonfleet.gateway.asking import is_strict, known_model, tenant_of, version_of
from tritonfleet.gateway.desk import Desk
from tritonfleet.gateway.envoy.plan import RESIDENCY_HEADER
from tritonfleet.gateway.metadata import (
    model_config,
    model_metadata,
    no_statistics,
    server_metadata,
)
from tritonfleet.gateway.problems import refusal
from tritonfleet.gateway.relay import Relay

_COLD = {RESIDENCY_HEADER: "cold"}
_WARM = {RESIDENCY_HEADER: "warm"}


class Inspection:
    """Health, metadata, configuration and statistics."""

    def __init__(
        self,
        controller: Controller,
        desk: Desk,
        relay: Relay,
        *,
        version: str,
        configs: Callable[[str], Any],
        versions: Callable[[str], tuple[int, ...]],
    ) -> None:
        self._controller, self._desk, self._relay = controller, desk, relay
        self._version, self._configs, self._versions = version, configs, versions

    def add_server_routes(self, router: web.UrlDispatcher) -> None:
        """All that concerns no single model."""
        router.add_get("/v2", self.server_metadata)
        router.add_get("/v2/health/live", self.live)
        router.add_get("/v2/health/ready", self.ready)
        router.add_get("/v2/models/stats", self.all_statistics)

    def add_model_routes(self, router: web.UrlDispatcher, prefix: str) -> None:
        """All that concerns the model in the path."""
        router.add_get(prefix + "/ready", self.model_ready)
        router.add_get(prefix + "/config", self.config)
        router.add_get(prefix + "/stats", self.statistics)
        router.add_get(prefix, self.metadata)

    # -- the server ----------------------------------------------------------------------------

    async def server_metadata(self, _: web.Request) -> web.Response:
        """Name, version and extensions of this gateway."""
        return web.json_response(
            server_metadata(self._version, shares=not self._desk.rules.tenants)
        )

    async def live(self, _: web.Request) -> web.Response:
        """200 as long as the gateway answers."""
        return web.Response()

    async def ready(self, _: web.Request) -> web.Response:
        """200 if a tritonserver is there to load models on."""
        return web.Response(status=200 if self._controller.servers() else 503)

    async def all_statistics(self, request: web.Request) -> web.Response:
        """The statistics of every loaded model that the caller may know of."""
        visible = set(self._desk.visible(tenant_of(request)))
        told = await asyncio.gather(*map(self._server_statistics, self._controller.servers()))
        statistics = [entry for server in told for entry in server if entry.get("name") in visible]
        return web.json_response({"model_stats": statistics})

    async def _server_statistics(self, server: str) -> list[Any]:
        address = self._controller.address(server)
        answer = await self._relay.fetch_json(server, address, "/v2/models/stats")
        return list(answer.get("model_stats", []))

    # -- a model -------------------------------------------------------------------------------

    async def model_ready(self, request: web.Request) -> web.StreamResponse:
        """200 for a model that can be served, on demand if need be; 400 while its loads fail."""
        model, server = self._found(request)
        told = server and await self._asked(request, model, server, "/ready")
        if told:
            return told
        if is_strict(request):
            return refusal(f"{model} is not in memory", 400, _COLD)
        failure = self._controller.ledger.failure(model, self._controller.now())
        if failure is not None:
            return refusal(str(failure), 400)
        return web.Response(headers=_COLD)

    async def metadata(self, request: web.Request) -> web.StreamResponse:
        """The model's inputs and outputs."""
        return await self._told(request, "", model_metadata)

    async def config(self, request: web.Request) -> web.StreamResponse:
        """The model's configuration."""
        return await self._told(request, "/config", lambda config, _: model_config(config))

    async def statistics(self, request: web.Request) -> web.StreamResponse:
        """The model's statistics since it was loaded."""
        return await self._told(request, "/stats", no_statistics)

    async def _told(
        self,
        request: web.Request,
        page: str,
        cold: Callable[[Any, tuple[int, ...]], dict[str, Any]],
    ) -> web.StreamResponse:
        """Triton's own answer for a model in memory, else the same from the repository."""
        model, server = self._found(request)
        told = server and await self._asked(request, model, server, page)
        if told:
            return told
        config, versions = await asyncio.to_thread(self._published, model)
        return web.json_response(cold(config, versions), headers=_COLD)

    def _published(self, model: str) -> tuple[Any, tuple[int, ...]]:
        return self._configs(model), self._versions(model)

    async def _asked(
        self, request: web.Request, model: str, server: str, page: str
    ) -> web.Response | None:
        """Triton's answer; None when it has let go of the model in this very moment."""
        version = version_of(request)
        path = f"/v2/models/{model}{'/versions/' + version if version else ''}{page}"
        try:
            address = self._controller.address(server)
            # Always GET: Triton answers HEAD with a body, which nobody can read.
            status, body = await self._relay.call(server, address, hdrs.METH_GET, path)
        except ServerUnreachable:
            if version:
                raise
            return None
        if status != 200 and not version:
            return None
        kind = "application/json" if body else None
        return web.Response(status=status, body=body, content_type=kind, headers=_WARM)

    def _found(self, request: web.Request) -> tuple[str, str | None]:
        """The model in the path and where it is; VersionNotFound if nobody published that."""
        model, version = known_model(request, self._desk), version_of(request)
        server = self._controller.ledger.ready_on(model)
        if server is None and version:
            published = self._versions(model)
            if int(version) not in published:
                raise VersionNotFound(model, version, published)
        return model, server
