"""What an HTTP request says of itself: for which model, by whom, how urgently."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import hdrs, web

from tritonfleet.errors import FleetError, InvalidSpec, Problem
from tritonfleet.gateway.body import read_all
from tritonfleet.gateway.deadlines import TIMEOUT_HEADER, header_deadline_s
from tritonfleet.gateway.desk import Asked, Desk
from tritonfleet.gateway.envoy.plan import CLASS_HEADER, TENANT_HEADER
from tritonfleet.spec.traffic import LatencyClass

ATTEMPT_HEADER = "x-envoy-attempt-count"
STRICT_HEADER = "tritonfleet-strict"
"""'true': a model that is not in memory is not ready."""
_SHADOW = "-shadow"
_CLASSES: dict[str, LatencyClass] = {"interactive": "interactive", "batch": "batch"}


def tenant_of(request: web.Request) -> str | None:
    """Who calls, as Envoy has proved it."""
    return request.headers.get(TENANT_HEADER)


def asked_of(request: web.Request, desk: Desk) -> Asked:
    """An inference request as the desk wants to know it, without a look at its body.

    Raises ModelNotFound, NotAllowed or InvalidSpec.
    """
    model, headers = known_model(request, desk), request.headers
    return Asked(
        model=model,
        version=version_of(request),
        tenant=tenant_of(request),
        latency_class=_latency_class(headers.get(CLASS_HEADER)),
        deadline_s=header_deadline_s(headers.get(TIMEOUT_HEADER)),
        mirrored=_is_copy(headers.get(hdrs.HOST, "")) and model in desk.rules.mirrors,
        overloaded=_was_refused(headers.get(ATTEMPT_HEADER, "")),
    )


def known_model(request: web.Request, desk: Desk) -> str:
    """The model in the path; ModelNotFound or NotAllowed if the caller cannot have it."""
    model = request.match_info["model"]
    desk.check_model(tenant_of(request), model)
    return model


def version_of(request: web.Request) -> str:
    """The version in the path; empty where it names none."""
    version = request.match_info.get("version", "")
    if version and not (version.isascii() and version.isdigit() and len(version) < 20):
        raise bad_request("version", f"is not a number: {version[:40]!r}")
    return version


def is_strict(request: web.Request) -> bool:
    """Whether only a model in memory counts as ready."""
    said = request.query.get("strict", request.headers.get(STRICT_HEADER, ""))
    return said.lower() in ("true", "1")


async def json_object(request: web.Request) -> dict[str, Any]:
    """The JSON object a client sent; {} for an empty body."""
    raw = await read_all(request)
    try:
        data = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        raise bad_request("body", f"is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise bad_request("body", "must be a JSON object")
    return data


def bad_request(what: str, message: str, hint: str | None = None) -> FleetError:
    """An error in what a client sent."""
    return InvalidSpec("the request", (Problem(what, message, None, hint),))


def _latency_class(text: str | None) -> LatencyClass | None:
    if text is None:
        return None
    if text not in _CLASSES:
        raise bad_request(CLASS_HEADER, f"is 'interactive' or 'batch', not {text[:40]!r}")
    return _CLASSES[text]


def _is_copy(host: str) -> bool:
    """Whether Envoy made this request from another one: it marks the name of the host."""
    return host.partition(":")[0].endswith(_SHADOW)


def _was_refused(attempts: str) -> bool:
    return attempts.isdigit() and int(attempts[:9]) >= 2
