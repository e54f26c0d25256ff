"""The control API: what the command line asks of a running fleet, on a port of its own.

It listens on loopback; the gateway's port knows nothing of pins and decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from tritonfleet.controller.controller import Controller
from tritonfleet.controller.status import explain, fleet_status
from tritonfleet.gateway.problems import problems


class ControlApi:
    """Status, loads, unloads, pins and explanations as JSON."""

    def __init__(
        self,
        controller: Controller,
        *,
        fleet: str,
        gateway: Callable[[], str],
        descriptions: Mapping[str, str],
        save_pins: Callable[[frozenset[str]], None] = lambda _: None,
    ) -> None:
        self._controller, self._fleet = controller, fleet
        self._gateway, self._descriptions, self._save_pins = gateway, descriptions, save_pins

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[problems])
        app.router.add_get("/v1/status", self.status)
        app.router.add_get("/v1/models/{model}/decisions", self.decisions)
        for verb in ("load", "unload", "pin", "unpin"):
            app.router.add_post(f"/v1/models/{{model}}/{verb}", getattr(self, verb))
        return app

    async def status(self, _: web.Request) -> web.Response:
        """Servers and models, each with the reason for its state."""
        return web.json_response(self._status())

    async def decisions(self, request: web.Request) -> web.Response:
        """The remembered decisions that concern a model, newest first."""
        model = request.match_info["model"]
        self._controller.ledger.priority(model)  # ModelNotFound for a foreign name
        found = explain(self._controller.ledger, model, self._controller.now())
        return web.json_response(found)

    async def load(self, request: web.Request) -> web.Response:
        """Returns when the model is READY."""
        await self._controller.load(request.match_info["model"])
        return self._model(request)

    async def unload(self, request: web.Request) -> web.Response:
        """Returns when the model's memory is free."""
        await self._controller.unload(request.match_info["model"])
        return self._model(request)

    async def pin(self, request: web.Request) -> web.Response:
        """Returns at once; the model is loaded as soon as there is room."""
        self._controller.pin(request.match_info["model"])
        self._save_pins(self._controller.ledger.pinned)
        return self._model(request)

    async def unpin(self, request: web.Request) -> web.Response:
        """Returns at once."""
        self._controller.unpin(request.match_info["model"])
        self._save_pins(self._controller.ledger.pinned)
        return self._model(request)

    def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        entry = next(model for model in self._status()["models"] if model["name"] == name)
        return web.json_response(entry)

    def _status(self) -> dict[str, Any]:
        up = {name: self._controller.addresses(name) for name in self._controller.servers()}
        now = self._controller.now()
        status = fleet_status(self._controller.ledger, now, self._descriptions, up)
        return {"fleet": self._fleet, "gateway": self._gateway(), **status}
