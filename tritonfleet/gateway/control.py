"""The control API: what the command line asks of a running fleet, on a port of its own.

It listens on loopback, and a browser that was led there by a foreign page is turned away. The
gateway's ports know nothing of pins, decisions and rollouts.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from tritonfleet.controller.controller import Controller
from tritonfleet.controller.status import explain, fleet_status
from tritonfleet.errors import ModelNotFound
from tritonfleet.gateway.asking import bad_request, json_object
from tritonfleet.gateway.desk import Desk
from tritonfleet.gateway.problems import problems, refusal
from tritonfleet.talk import Addresses

_ACTIONS = ("start", "canary", "promote", "rollback")


class Rollouts(Protocol):
    """How versions of models come into service and leave it."""

    def status(self, model: str) -> dict[str, Any]:
        """Which versions are in service, and for which share."""
        ...

    async def start(self, model: str, version: int | None, percent: float | None) -> None:
        """Brings a version into service; the newest where none is given."""
        ...

    async def promote(self, model: str) -> None:
        """The canary takes over."""
        ...

    async def rollback(self, model: str, version: int | None) -> None:
        """An earlier version is in service again."""
        ...


class ControlApi:
    """Status, loads, unloads, pins, rollouts and explanations as JSON."""

    def __init__(
        self,
        controller: Controller,
        desk: Desk,
        rollouts: Rollouts,
        *,
        fleet: str,
        addresses: Callable[[], Addresses],
        descriptions: Mapping[str, str],
        save_pins: Callable[[frozenset[str]], None] = lambda _: None,
    ) -> None:
        self._controller, self._desk, self._rollouts = controller, desk, rollouts
        self._fleet, self._addresses = fleet, addresses
        self._descriptions, self._save_pins = descriptions, save_pins

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[only_from_here, problems])
        app.router.add_get("/v1/status", self.status)
        app.router.add_get("/v1/models/{model}/decisions", self.decisions)
        app.router.add_get("/v1/models/{model}/rollout", self.rollout)
        app.router.add_post("/v1/models/{model}/rollout", self.change_rollout)
        for verb in ("load", "unload", "pin", "unpin"):
            app.router.add_post(f"/v1/models/{{model}}/{verb}", getattr(self, verb))
        return app

    async def status(self, _: web.Request) -> web.Response:
        """Servers and models, each with the reason for its state."""
        return web.json_response(self._status())

    async def decisions(self, request: web.Request) -> web.Response:
        """The remembered decisions that concern a model, newest first."""
        model = self._known(request)
        found = explain(self._controller.ledger, model, self._controller.now())
        return web.json_response(found)

    async def load(self, request: web.Request) -> web.Response:
        """Returns when the model is READY."""
        await self._controller.load(self._known(request))
        return self._model(request)

    async def unload(self, request: web.Request) -> web.Response:
        """Returns when the model's memory is free."""
        await self._controller.unload(self._known(request))
        return self._model(request)

    async def pin(self, request: web.Request) -> web.Response:
        """Returns at once; the model is loaded as soon as there is room."""
        self._controller.pin(self._known(request))
        self._save_pins(self._controller.ledger.pinned)
        return self._model(request)

    async def unpin(self, request: web.Request) -> web.Response:
        """Returns at once."""
        self._controller.unpin(self._known(request))
        self._save_pins(self._controller.ledger.pinned)
        return self._model(request)

    # -- rollouts ------------------------------------------------------------------------------

    async def rollout(self, request: web.Request) -> web.Response:
        """Which versions of a model are in service, and how they got there."""
        return web.json_response(self._rollouts.status(self._known(request)))

    async def change_rollout(self, request: web.Request) -> web.Response:
        """Starts, promotes or takes back a version; returns when that is in force."""
        model, wish = self._known(request), await json_object(request)
        version, percent = _version(wish), _percent(wish)
        action = wish.get("action")
        if action in ("start", "canary"):
            await self._rollouts.start(model, version, percent)
        elif action == "promote":
            await self._rollouts.promote(model)
        elif action == "rollback":
            await self._rollouts.rollback(model, version)
        else:
            raise bad_request("action", f"is one of {', '.join(_ACTIONS)}, not {action!r}")
        return web.json_response(self._rollouts.status(model))

    # -- small facts ---------------------------------------------------------------------------

    def _known(self, request: web.Request) -> str:
        model = request.match_info["model"]
        if model not in self._desk.rules.models:
            raise ModelNotFound(model, self._desk.rules.models)
        return model

    def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        entry = next(model for model in self._status()["models"] if model["name"] == name)
        return web.json_response(entry)

    def _status(self) -> dict[str, Any]:
        up = {name: self._controller.addresses(name) for name in self._controller.servers()}
        now, addresses = self._controller.now(), self._addresses()
        return {
            "fleet": self._fleet,
            "gateway": addresses.gateway,
            "grpc": addresses.grpc,
            # What came to Python: requests to models in memory do not.
            "activator": dataclasses.asdict(self._desk.counters),
            **fleet_status(self._controller.ledger, now, self._descriptions, up),
        }


@web.middleware
async def only_from_here(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns away what a browser sends on behalf of a page that is not of this machine.

    Its connection comes from loopback too, but it names the host that the page had it look up
    (DNS rebinding), or the page's origin.
    """
    host, origin = request.headers.get(hdrs.HOST), request.headers.get(hdrs.ORIGIN)
    if host is not None and not _is_loopback(f"//{host}"):
        return refusal(f"the control API is at a loopback address, not at {host[:80]!r}", 403)
    if origin is not None and not _is_loopback(origin):
        return refusal(f"the control API takes no calls from pages of {origin[:80]!r}", 403)
    return await handler(request)


def _is_loopback(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _version(wish: Mapping[str, Any]) -> int | None:
    version = wish.get("version")
    if version is None or (type(version) is int and version > 0):
        return version
    raise bad_request("version", f"is a positive whole number, not {version!r}")


def _percent(wish: Mapping[str, Any]) -> float | None:
    percent = wish.get("percent")
    if percent is None:
        return None
    if type(percent) in (int, float) and 0 <= percent <= 100:
        return float(percent)
    raise bad_request("percent", f"is a number from 0 to 100, not {percent!r}")
