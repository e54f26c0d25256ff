"""The Open Inference Protocol over HTTP, for every model of the fleet, loaded or not.

A request for a model takes a lease, which loads the model if it must, and is then relayed to the
tritonserver that holds it. Its body is not read before there is a place to send it, so that waiting
costs no memory. The repository extension drives our residency, not Triton's behind our back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from tritonfleet.controller.controller import Controller
from tritonfleet.controller.ledger import Phase
from tritonfleet.errors import (
    FleetError,
    InvalidSpec,
    ModelNotFound,
    Problem,
    ServerTimeout,
)
from tritonfleet.gateway.metadata import model_config, model_metadata, no_statistics
from tritonfleet.gateway.problems import problems
from tritonfleet.gateway.relay import Relay
from tritonfleet.server.states import ReadyState

RESIDENCY_HEADER = "tritonfleet-residency"
"""'warm' if the model was in memory when the request came, else 'cold'."""
WAIT_HEADER = "tritonfleet-wait-ms"
_EXTENSIONS = [
    "binary_tensor_data", "classification", "model_configuration", "model_repository",
    "model_repository(unload_dependents)", "parameters", "schedule_policy", "sequence",
    "statistics",
]  # fmt: skip
_STATES = {
    Phase.RESERVED: (ReadyState.LOADING, "waits for memory"),
    Phase.LOADING: (ReadyState.LOADING, ""),
    Phase.READY: (ReadyState.READY, ""),
    Phase.DRAINING: (ReadyState.UNLOADING, ""),
    Phase.UNLOADING: (ReadyState.UNLOADING, ""),
}


class Activator:
    """The HTTP front of a fleet.

    ``configs`` gives a model's ``ModelConfig`` and ``versions`` its published versions;
    ``timeouts_s`` holds the models' own limits.
    """

    def __init__(
        self,
        controller: Controller,
        relay: Relay,
        *,
        version: str,
        configs: Callable[[str], Any],
        versions: Callable[[str], tuple[int, ...]],
        timeouts_s: Mapping[str, float],
    ) -> None:
        self._controller, self._relay, self._version = controller, relay, version
        self._configs, self._versions, self._timeouts_s = configs, versions, timeouts_s

    def application(self) -> web.Application:
        """The aiohttp application; run it with ``auto_decompress=False``."""
        app = web.Application(middlewares=[problems], client_max_size=0)
        model = "/v2/models/{model}"
        # Before the models: a fixed path wins over a model that is named like it.
        app.router.add_get("/v2/models/stats", self.all_statistics)
        for prefix in (model, model + "/versions/{version}"):
            app.router.add_post(prefix + "/infer", self.infer)
            app.router.add_post(prefix + "/generate", self.infer)
            app.router.add_post(prefix + "/generate_stream", self.infer)
            app.router.add_get(prefix + "/ready", self.model_ready)
            app.router.add_get(prefix + "/config", self.config)
            app.router.add_get(prefix + "/stats", self.statistics)
            app.router.add_get(prefix, self.metadata)
        app.router.add_get("/v2", self.server_metadata)
        app.router.add_get("/v2/health/live", self.live)
        app.router.add_get("/v2/health/ready", self.ready)
        app.router.add_post("/v2/repository/index", self.index)
        app.router.add_post("/v2/repository/models/{model}/load", self.load)
        app.router.add_post("/v2/repository/models/{model}/unload", self.unload)
        return app

    # -- inference -----------------------------------------------------------------------------

    async def infer(self, request: web.Request) -> web.StreamResponse:
        """Any inference request, relayed once its model is in memory."""
        model = request.match_info["model"]
        limit_s = self._timeouts_s.get(model)
        started = self._controller.now()
        async with self._controller.lease(model, limit_s) as lease:
            left_s = None if limit_s is None else limit_s - (self._controller.now() - started)
            if left_s is not None and left_s <= 0:
                raise ServerTimeout(lease.server, f"infer {model}", limit_s or 0)
            headers = {
                RESIDENCY_HEADER: "cold" if lease.cold else "warm",
                WAIT_HEADER: f"{lease.waited_s * 1000:.1f}",
            }
            answer = await self._relayed(request, lease.server, left_s, headers)
            if answer.status < 300:
                lease.proved()
            return answer

    async def _relayed(
        self,
        request: web.Request,
        server: str,
        timeout_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> web.StreamResponse:
        address = self._controller.address(server)
        return await self._relay.forward(
            request, server, address, timeout_s=timeout_s, extra_headers=headers
        )

    # -- a model -------------------------------------------------------------------------------

    async def model_ready(self, request: web.Request) -> web.StreamResponse:
        """200 for a model that can be served, on demand if need be; 400 while its loads fail."""
        model = self._known(request)
        server = self._controller.ledger.ready_on(model)
        if server is not None:
            return await self._relayed(request, server)
        failure = self._controller.ledger.failure(model, self._controller.now())
        if failure is not None:
            return web.json_response({"error": str(failure)}, status=400)
        return web.Response(headers={RESIDENCY_HEADER: "cold"})

    async def metadata(self, request: web.Request) -> web.StreamResponse:
        """The model's inputs and outputs."""
        model = self._known(request)
        return await self._told(request, model, lambda config: model_metadata(
            config, self._versions(model)))  # fmt: skip

    async def config(self, request: web.Request) -> web.StreamResponse:
        """The model's configuration."""
        return await self._told(request, self._known(request), model_config)

    async def statistics(self, request: web.Request) -> web.StreamResponse:
        """The model's statistics since it was loaded."""
        model = self._known(request)
        return await self._told(request, model, lambda config: no_statistics(
            config, self._versions(model)))  # fmt: skip

    async def _told(
        self, request: web.Request, model: str, cold: Callable[[Any], dict[str, Any]]
    ) -> web.StreamResponse:
        """Triton's own answer for a resident model, else the same from the repository."""
        server = self._controller.ledger.ready_on(model)
        if server is not None:
            return await self._relayed(request, server)
        config = await asyncio.to_thread(self._configs, model)
        return web.json_response(cold(config), headers={RESIDENCY_HEADER: "cold"})

    # -- the server ----------------------------------------------------------------------------

    async def server_metadata(self, _: web.Request) -> web.Response:
        """Name, version and extensions of this gateway."""
        answer = {"name": "tritonfleet", "version": self._version, "extensions": _EXTENSIONS}
        return web.json_response(answer)

    async def live(self, _: web.Request) -> web.Response:
        """200 as long as the gateway answers."""
        return web.Response()

    async def ready(self, _: web.Request) -> web.Response:
        """200 if a tritonserver is there to load models on."""
        return web.Response(status=200 if self._controller.servers() else 503)

    async def all_statistics(self, request: web.Request) -> web.StreamResponse:
        """The statistics of every loaded model, of every server."""
        statistics: list[Any] = []
        for server in self._controller.servers():
            address = self._controller.address(server)
            answer = await self._relay.fetch_json(server, address, request.path)
            statistics += answer.get("model_stats", [])
        return web.json_response({"model_stats": statistics})

    # -- the repository extension ----------------------------------------------------------------

    async def index(self, request: web.Request) -> web.Response:
        """Every model of the fleet with its state; ``{"ready": true}`` asks for READY ones only."""
        only_ready = bool((await _json_body(request)).get("ready", False))
        entries = [self._index_entry(model) for model in self._controller.ledger.names]
        return web.json_response(
            [entry for entry in entries if not only_ready or entry["state"] == "READY"]
        )

    async def load(self, request: web.Request) -> web.Response:
        """Makes a model resident, within the budget."""
        model = self._known(request)
        parameters = (await _json_body(request)).get("parameters") or {}
        if parameters:
            names = ", ".join(sorted(parameters))
            hint = "publish the model with 'tritonfleet build', or ask the tritonserver itself"
            problem = Problem(f"load {model}", f"parameters are not taken: {names}", None, hint)
            raise InvalidSpec("the request", (problem,))
        await self._controller.load(model)
        return web.Response()

    async def unload(self, request: web.Request) -> web.Response:
        """Takes a model out of memory, with the ensembles that need it."""
        model = self._known(request)
        await _json_body(request)
        await self._controller.unload(model)
        return web.Response()

    def _index_entry(self, model: str) -> dict[str, str]:
        phase = self._controller.ledger.phase(model)
        versions = self._versions(model)
        entry = {"name": model, "version": str(versions[-1]) if versions else ""}
        if phase is not None:
            state, reason = _STATES[phase]
            return {**entry, "state": state.value, "reason": reason}
        failure = self._controller.ledger.failure(model, self._controller.now())
        reason = failure.reason if failure else "unloaded"
        return {**entry, "state": ReadyState.UNAVAILABLE.value, "reason": reason}

    # -- small facts ---------------------------------------------------------------------------

    def _known(self, request: web.Request) -> str:
        model = request.match_info["model"]
        names = self._controller.ledger.names
        if model not in names:
            raise ModelNotFound(model, names)
        return model


async def _json_body(request: web.Request) -> dict[str, Any]:
    """The JSON object a client sent; {} for an empty body."""
    raw = await request.content.read(2**20)
    try:
        data = json.loads(raw) if raw.strip() else {}
    except ValueError as error:
        raise _bad_body(f"is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise _bad_body("must be a JSON object")
    return data


def _bad_body(message: str) -> FleetError:
    return InvalidSpec("the request", (Problem("body", message),))
