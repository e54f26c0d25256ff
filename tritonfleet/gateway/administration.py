"""Triton's own switches over HTTP: trace, logging and shared memory, on every server alike.

The tritonservers take such calls from nobody but us: they carry a secret. Who may make them is
decided here.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Iterable
from urllib.parse import quote

from aiohttp import web

from tritonfleet.controller.controller import Controller
from tritonfleet.errors import FleetError, ServerUnreachable
from tritonfleet.gateway.asking import bad_request, known_model, tenant_of
from tritonfleet.gateway.body import read_all
from tritonfleet.gateway.desk import Desk
from tritonfleet.gateway.relay import Relay
from tritonfleet.gateway.shared_memory import Kind, Region, SharedMemory

log = logging.getLogger(__name__)
_TRACE = "/trace/setting"
_KINDS: dict[str, Kind] = {"systemsharedmemory": "system", "cudasharedmemory": "cuda"}
Answer = tuple[int, bytes]
"""Status and body."""


class Administration:
    """Settings are read from one server and changed on all; regions are registered with all."""

    def __init__(
        self, controller: Controller, desk: Desk, relay: Relay, shared_memory: SharedMemory
    ) -> None:
        self._controller, self._desk, self._relay = controller, desk, relay
        self._shared_memory = shared_memory

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Trace, logging, and both kinds of shared memory."""
        for path in (f"/v2{_TRACE}", f"/v2/models/{{model}}{_TRACE}", "/v2/logging"):
            router.add_get(path, self.read_setting)
            router.add_post(path, self.change_setting)
        kind = f"/v2/{{kind:{'|'.join(_KINDS)}}}"
        region = kind + "/region/{region}"
        for prefix in (kind, region):
            router.add_get(prefix + "/status", self.region_status)
            router.add_post(prefix + "/unregister", self.unregister)
        router.add_post(region + "/register", self.register)

    async def restore(self, server: str) -> None:
        """Tells a server that was restarted of the regions that it knew."""
        for region in self._shared_memory.regions:
            body, path = json.dumps(region.to_json()).encode(), f"{_region_path(region)}/register"
            try:
                status, answer = await self._call(server, "POST", path, body)
            except FleetError as error:
                log.warning(
                    "server=%s has not been told of region=%s: %s", server, region.name, error
                )
                continue
            if status != 200:
                # Its owner has removed it meanwhile; Triton refuses the requests that name it.
                text = answer.decode(errors="replace")
                log.warning("server=%s does not take region=%s: %s", server, region.name, text)

    # -- settings ------------------------------------------------------------------------------

    async def read_setting(self, request: web.Request) -> web.Response:
        """What holds, from the server that has the model or from any."""
        path, servers = self._setting(request)
        return _response(await self._call(servers[0], "GET", path))

    async def change_setting(self, request: web.Request) -> web.Response:
        """Changes every server, so that it does not matter where a model is loaded next."""
        path, servers = self._setting(request)
        self._desk.check_manage(tenant_of(request), f"change {request.path}")
        return _response(await self._call_all(servers, path, await read_all(request)))

    def _setting(self, request: web.Request) -> tuple[str, tuple[str, ...]]:
        """The path at Triton, and the servers that it concerns."""
        path, servers = request.path, self._controller.servers()
        if "model" in request.match_info:
            # Triton knows no settings of a model that it does not hold; the general ones apply.
            on = self._controller.ledger.ready_on(known_model(request, self._desk))
            if on is None and request.method != "GET":
                raise bad_request(path, "the model is not in memory", "load it first")
            path, servers = (path, (on,)) if on is not None else (f"/v2{_TRACE}", servers)
        if not servers:
            raise ServerUnreachable("any", "its address: none is up", sent=False)
        return path, servers

    # -- shared memory -------------------------------------------------------------------------

    async def region_status(self, request: web.Request) -> web.Response:
        """What is registered: every server knows the same."""
        servers = self._sharing(request)
        return _response(await self._call(servers[0], "GET", _shared_path(request) + "/status"))

    async def register(self, request: web.Request) -> web.Response:
        """Registers a region with every server, or with none."""
        servers, path, body = self._sharing(request), _shared_path(request), await read_all(request)
        done: list[str] = []
        for server in servers:
            answer = await self._call(server, "POST", path + "/register", body)
            if answer[0] != 200:
                await self._call_all(done, path + "/unregister", b"")
                return _response(answer)
            done.append(server)
        self._shared_memory.remember(_region(request, body))
        return web.Response()

    async def unregister(self, request: web.Request) -> web.Response:
        """Takes a region, or all of a kind, from every server."""
        servers, path = self._sharing(request), _shared_path(request)
        answer = await self._call_all(servers, path + "/unregister", b"")
        if answer[0] == 200:
            name = request.match_info.get("region", "")
            self._shared_memory.forget(_KINDS[request.match_info["kind"]], name)
        return _response(answer)

    def _sharing(self, request: web.Request) -> tuple[str, ...]:
        servers = self._shared_memory.servers(tenant_of(request))
        if not servers:
            raise ServerUnreachable("any", "its address: none is up", sent=False)
        return servers

    # -- the servers ---------------------------------------------------------------------------

    async def _call_all(self, servers: Iterable[str], path: str, body: bytes) -> Answer:
        """The first answer that is an error, else any; every server is asked."""
        answers = await asyncio.gather(*(self._call(each, "POST", path, body) for each in servers))
        wrong = [answer for answer in answers if answer[0] != 200]
        return next(iter([*wrong, *answers]), (200, b""))

    async def _call(self, server: str, method: str, path: str, body: bytes | None = None) -> Answer:
        endpoint = self._controller.endpoint(server)
        return await self._relay.call(
            server, endpoint.http, method, path, body=body, headers=endpoint.admin_http_headers
        )


def _response(answer: Answer) -> web.Response:
    status, body = answer
    return web.Response(status=status, body=body, content_type="application/json")


def _shared_path(request: web.Request) -> str:
    """The path of a region, or of all of its kind, as Triton's clients spell it."""
    kind, region = request.match_info["kind"], request.match_info.get("region")
    return f"/v2/{kind}" if region is None else f"/v2/{kind}/region/{quote(region, safe='')}"


def _region_path(region: Region) -> str:
    kind = next(path for path, kind in _KINDS.items() if kind == region.kind)
    return f"/v2/{kind}/region/{quote(region.name, safe='')}"


def _region(request: web.Request, body: bytes) -> Region:
    """What Triton has just been told, and has understood."""
    said = json.loads(body)
    handle = said.get("raw_handle") or {}
    return Region(
        kind=_KINDS[request.match_info["kind"]],
        name=request.match_info["region"],
        byte_size=int(said["byte_size"]),
        key=str(said.get("key", "")),
        offset=int(said.get("offset", 0)),
        raw_handle=base64.b64decode(handle.get("b64", "")),
        device_id=int(said.get("device_id", 0)),
    )
