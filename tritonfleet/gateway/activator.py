"""The Open Inference Protocol over HTTP, for every model of the fleet, loaded or not.

Envoy sends here what it cannot send to a tritonserver itself: requests for models that are not in
memory, second attempts, and all that is no inference. A request for a model takes a lease, which
loads the model if it must, and is then relayed to the tritonserver that holds it. Of its body no
more is read before than it takes to find its deadline.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from tritonfleet.controller.controller import Controller
from tritonfleet.errors import FleetError, FleetSaturated, ServerError, ServerUnreachable
from tritonfleet.gateway.administration import Administration
from tritonfleet.gateway.asking import asked_of
from tritonfleet.gateway.body import Body
from tritonfleet.gateway.deadlines import body_deadline_s, least
from tritonfleet.gateway.departures import Departures
from tritonfleet.gateway.desk import Admission, Asked, Desk
from tritonfleet.gateway.envoy.plan import FALLBACK_HEADER, RESIDENCY_HEADER, WAIT_HEADER
from tritonfleet.gateway.inspection import Inspection
from tritonfleet.gateway.problems import problems
from tritonfleet.gateway.relay import Relay
from tritonfleet.gateway.repository import RepositoryExtension
from tritonfleet.gateway.shared_memory import SharedMemory
from tritonfleet.talk import error_in

PAUSES_S = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Before a request is tried again of which it is certain that nothing has been run."""
_QUEUE_FULL = "Exceeds maximum queue size"
_VERSION_NOT_FOUND = re.compile(r"version -?\d+ is not found$")
_MODEL = "/v2/models/{model}"
_VERBS = ("infer", "generate", "generate_stream")


class _NothingRun(Exception):
    """An attempt that ended before the model ran."""

    def __init__(self, outcome: web.StreamResponse | FleetError, overloaded: bool) -> None:
        super().__init__(outcome)
        self.outcome, self.overloaded = outcome, overloaded

    def settle(self) -> web.StreamResponse:
        """What the client gets if it was the last attempt."""
        if isinstance(self.outcome, FleetError):
            raise self.outcome
        return self.outcome


class Activator:
    """The HTTP front of a fleet.

    ``configs`` gives a model's ``ModelConfig`` and ``versions`` its published versions.
    """

    def __init__(
        self,
        controller: Controller,
        desk: Desk,
        relay: Relay,
        shared_memory: SharedMemory,
        *,
        version: str,
        configs: Callable[[str], Any],
        versions: Callable[[str], tuple[int, ...]],
    ) -> None:
        self._controller, self._desk, self._relay = controller, desk, relay
        self._departures = Departures()
        self._inspection = Inspection(
            controller, desk, relay, version=version, configs=configs, versions=versions
        )
        self._repository = RepositoryExtension(controller, desk, versions)
        self._administration = Administration(controller, desk, relay, shared_memory)

    def application(self) -> web.Application:
        """The aiohttp application; run it with ``auto_decompress=False``."""
        app = web.Application(middlewares=[problems], client_max_size=0)
        app.on_cleanup.append(self._stop_watching)
        # A fixed path wins over a model that is named like it, so models come last.
        self._inspection.add_server_routes(app.router)
        self._repository.add_routes(app.router)
        self._administration.add_routes(app.router)
        for prefix in (_MODEL, _MODEL + "/versions/{version}"):
            for verb in _VERBS:
                app.router.add_post(f"{prefix}/{{verb:{verb}}}", self.infer)
            self._inspection.add_model_routes(app.router, prefix)
        return app

    async def _stop_watching(self, _: web.Application) -> None:
        self._departures.close()

    async def restore(self, server: str) -> None:
        """Tells a server that was restarted what clients had told the one before."""
        await self._administration.restore(server)

    async def infer(self, request: web.Request) -> web.StreamResponse:
        """Any inference request, relayed once its model is in memory."""
        started, asked, body = self._controller.now(), asked_of(request, self._desk), Body(request)
        held = self._desk.holding(asked.model, body.held_bytes)
        with held, self._departures.watched(request.transport):
            said_s = body_deadline_s(await body.json_part())
            asked = replace(asked, deadline_s=least(asked.deadline_s, said_s))
            exchange = _Exchange(request, asked, body, started)
            return await (self._copied if asked.mirrored else self._answered)(exchange)

    async def _answered(self, exchange: _Exchange) -> web.StreamResponse:
        """The answer to the first attempt, or to a later one where that is safe."""
        for pause_s in PAUSES_S:
            try:
                return await self._attempt(exchange)
            except _NothingRun as refusal:
                last = refusal
            await asyncio.sleep(pause_s)
            refused = exchange.asked.overloaded or last.overloaded
            exchange = replace(exchange, asked=replace(exchange.asked, overloaded=refused))
        return last.settle()

    async def _attempt(self, exchange: _Exchange) -> web.StreamResponse:
        try:
            async with self._desk.admit(exchange.asked_at(self._controller.now())) as admission:
                answer = await self._relayed(exchange, admission)
                await self._judge(exchange, admission, answer)
                return answer
        except ServerUnreachable as error:
            if error.sent:
                raise
            raise _NothingRun(error, overloaded=True) from error

    async def _relayed(self, exchange: _Exchange, admission: Admission) -> web.StreamResponse:
        return await self._relay.forward(
            exchange.request,
            admission.server,
            self._controller.address(admission.server),
            body=exchange.body,
            path=_path(exchange.request, admission),
            timeout_s=admission.remaining_s,
            extra_headers=_told(admission),
        )

    async def _judge(
        self, exchange: _Exchange, admission: Admission, answer: web.StreamResponse
    ) -> None:
        """Notes a good answer; raises _NothingRun for one that shows that nothing has been run."""
        if answer.status < 300:
            admission.proved()
            return
        text = _error_text(answer) if exchange.body.complete else ""
        if await is_absent(text, admission, self._controller):
            self._controller.missing(admission.model)
            raise _NothingRun(absence(admission), overloaded=False)
        refused = _QUEUE_FULL in text and admission.fallback is None
        if refused and self._desk.has_alternative(admission.model):
            raise _NothingRun(answer, overloaded=True)

    async def _copied(self, exchange: _Exchange) -> web.StreamResponse:
        """A copy of a request runs, and its answer goes nowhere."""
        async with self._desk.admit(exchange.asked) as admission:
            status = await self._relay.discard(
                exchange.request,
                admission.server,
                self._controller.address(admission.server),
                body=exchange.body,
                path=_path(exchange.request, admission),
                timeout_s=admission.remaining_s,
            )
        return web.Response(status=204 if status < 300 else status)


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One request, through all its attempts."""

    request: web.Request
    asked: Asked
    body: Body
    started: float

    def asked_at(self, now: float) -> Asked:
        return replace(self.asked, spent_s=now - self.started)


async def is_absent(text: str, admission: Admission, controller: Controller) -> bool:
    """Whether a model has left its server, and so has not run what is answered with this."""
    if not says_absent(text, admission.model):
        return False
    if not admission.version:
        return True
    # Of a model that is there a version may be missing, however often it is asked for.
    try:
        return not await controller.loaded_versions(admission.model)
    except ServerError:
        return False


def absence(admission: Admission) -> FleetSaturated:
    """What a caller is told if a model left each time it was there.

    Triton's own "unknown model" would say that asking again is of no use.
    """
    cause = f"it left server '{admission.server}' again before it was asked, as in a restart"
    return FleetSaturated(admission.model, admission.waited_s, 1.0, cause)


def says_absent(text: str, model: str) -> bool:
    """Whether Triton says that it does not hold a model, and so has not run it."""
    unknown = text.startswith(f"Request for unknown model: '{model}' ")
    # A version that is not there is the caller's mistake, however often it is asked for.
    return unknown and not _VERSION_NOT_FOUND.search(text)


def _error_text(answer: web.StreamResponse) -> str:
    """Triton's error message in an answer that has not been sent yet."""
    body = answer.body if isinstance(answer, web.Response) else None
    if answer.status not in (404, 503) or not isinstance(body, bytes):
        return ""
    return error_in(body.decode(errors="replace")) or ""


def _path(request: web.Request, admission: Admission) -> str:
    """The path of the model that answers, in Triton's own spelling, with the client's query."""
    version = f"/versions/{admission.version}" if admission.version else ""
    query = request.rel_url.raw_query_string
    path = f"/v2/models/{admission.model}{version}/{request.match_info['verb']}"
    return f"{path}?{query}" if query else path


def _told(admission: Admission) -> dict[str, str]:
    """What the client is told beside the answer."""
    told = {
        RESIDENCY_HEADER: "cold" if admission.cold else "warm",
        WAIT_HEADER: f"{admission.waited_s * 1000:.1f}",
    }
    return {**told, FALLBACK_HEADER: admission.fallback} if admission.fallback else told
