"""Triton's repository extension over HTTP: it drives our residency, not Triton's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from tritonfleet.controller.controller import Controller
from tritonfleet.controller.ledger import Phase
from tritonfleet.errors import FleetError
from tritonfleet.gateway.asking import bad_request, json_object, known_model, tenant_of
from tritonfleet.gateway.desk import Desk
from tritonfleet.server.states import ReadyState

_STATES = {
    Phase.RESERVED: (ReadyState.LOADING, "waits for memory"),
    Phase.LOADING: (ReadyState.LOADING, ""),
    Phase.READY: (ReadyState.READY, ""),
    Phase.DRAINING: (ReadyState.UNLOADING, ""),
    Phase.UNLOADING: (ReadyState.UNLOADING, ""),
}


class RepositoryExtension:
    """The index of the fleet's models, and loads and unloads within the budget."""

    def __init__(
        self, controller: Controller, desk: Desk, versions: Callable[[str], tuple[int, ...]]
    ) -> None:
        self._controller, self._desk, self._versions = controller, desk, versions

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """The three calls of the extension."""
        router.add_post("/v2/repository/index", self.index)
        router.add_post("/v2/repository/models/{model}/load", self.load)
        router.add_post("/v2/repository/models/{model}/unload", self.unload)

    async def index(self, request: web.Request) -> web.Response:
        """The models that the caller may know of; ``{"ready": true}`` asks for READY ones only."""
        only_ready = bool((await json_object(request)).get("ready", False))
        return web.json_response(self.entries(tenant_of(request), only_ready=only_ready))

    async def load(self, request: web.Request) -> web.Response:
        """Makes a model resident, within the budget."""
        model = self._managed(request, "load")
        check_parameters(model, (await json_object(request)).get("parameters"))
        await self._controller.load(model)
        return web.Response()

    async def unload(self, request: web.Request) -> web.Response:
        """Takes a model out of memory, with the ensembles that need it."""
        model = self._managed(request, "unload")
        await json_object(request)
        await self._controller.unload(model)
        return web.Response()

    def entries(self, tenant: str | None, *, only_ready: bool = False) -> list[dict[str, str]]:
        """The index as Triton words it."""
        entries = map(self._entry, self._desk.visible(tenant))
        return [entry for entry in entries if not only_ready or entry["state"] == "READY"]

    def _managed(self, request: web.Request, verb: str) -> str:
        model = known_model(request, self._desk)
        self._desk.check_manage(tenant_of(request), f"{verb} {model}")
        return model

    def _entry(self, model: str) -> dict[str, str]:
        versions = self._versions(model)
        entry = {"name": model, "version": str(versions[-1]) if versions else ""}
        phase = self._controller.ledger.phase(model)
        if phase is not None:
            state, reason = _STATES[phase]
            return {**entry, "state": state.value, "reason": reason}
        failure = self._controller.ledger.failure(model, self._controller.now())
        reason = failure.reason if failure else "unloaded"
        return {**entry, "state": ReadyState.UNAVAILABLE.value, "reason": reason}


def check_parameters(model: str, parameters: Any) -> None:
    """Raises for parameters of a load that would go behind the budget's back."""
    if parameters:
        raise _not_taken(model, parameters)


def _not_taken(model: str, parameters: Any) -> FleetError:
    names = ", ".join(sorted(map(str, parameters))) if isinstance(parameters, dict) else "no object"
    hint = "publish the model with 'tritonfleet build', or ask the tritonserver itself"
    return bad_request(f"load {model}", f"parameters are not taken: {names}", hint)
