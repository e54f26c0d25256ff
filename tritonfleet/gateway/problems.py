"""The only table from our errors to HTTP. Triton's own error answers pass through untouched."""

from __future__ import annotations

import math

from aiohttp import web
from aiohttp.typedefs import Handler

from tritonfleet.errors import (
    FleetError,
    FleetSaturated,
    InvalidModelConfig,
    LoadFailed,
    ModelNotFound,
    ModelTooLarge,
    PinRefused,
    ServerTimeout,
    ServerUnreachable,
    SpecError,
)

_STATUS: tuple[tuple[type[FleetError], int], ...] = (
    (ModelNotFound, 404),
    (PinRefused, 409),
    (SpecError, 400),
    (ModelTooLarge, 507),
    (FleetSaturated, 503),
    (LoadFailed, 503),
    (InvalidModelConfig, 503),
    (ServerUnreachable, 502),
    (ServerTimeout, 504),
    (FleetError, 500),
)


def http_status(error: FleetError) -> int:
    """The status code an error is answered with."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def retry_after_s(error: FleetError) -> int | None:
    """Whole seconds after which the same request may succeed, where that is known."""
    seconds = getattr(error, "retry_after_s", 0.0)
    return max(1, math.ceil(seconds)) if seconds else None


def problem(error: FleetError) -> web.Response:
    """An error in the form of Triton's own answers, which every client of it understands."""
    headers = {}
    retry = retry_after_s(error)
    if retry is not None:
        headers["Retry-After"] = str(retry)
    return web.json_response({"error": str(error)}, status=http_status(error), headers=headers)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers a FleetError with its status, and an unknown path in Triton's form."""
    try:
        return await handler(request)
    except FleetError as error:
        return problem(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        text = f"{request.method} {request.path}: {error.reason}"
        return web.json_response({"error": text}, status=error.status, headers=_allow(error))


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
