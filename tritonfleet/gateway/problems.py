"""The only table from our errors to HTTP and gRPC. Triton's own answers pass through untouched."""

from __future__ import annotations

import math

import grpc
from aiohttp import web
from aiohttp.typedefs import Handler

from tritonfleet.errors import (
    DeadlineExceeded,
    FleetError,
    FleetSaturated,
    InvalidModelConfig,
    LoadFailed,
    ModelNotFound,
    ModelTooLarge,
    NotAllowed,
    PinRefused,
    QueueFull,
    RolloutRefused,
    ServerTimeout,
    ServerUnreachable,
    SharedMemoryRefused,
    SpecError,
    TooMuchHeld,
    VersionNotFound,
)

_TABLE: tuple[tuple[type[FleetError], int, grpc.StatusCode], ...] = (
    (ModelNotFound, 404, grpc.StatusCode.NOT_FOUND),
    (VersionNotFound, 404, grpc.StatusCode.NOT_FOUND),
    (NotAllowed, 403, grpc.StatusCode.PERMISSION_DENIED),
    (PinRefused, 409, grpc.StatusCode.FAILED_PRECONDITION),
    (RolloutRefused, 409, grpc.StatusCode.FAILED_PRECONDITION),
    (SharedMemoryRefused, 409, grpc.StatusCode.FAILED_PRECONDITION),
    (SpecError, 400, grpc.StatusCode.INVALID_ARGUMENT),
    (ModelTooLarge, 507, grpc.StatusCode.FAILED_PRECONDITION),
    (QueueFull, 429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TooMuchHeld, 503, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeadlineExceeded, 504, grpc.StatusCode.DEADLINE_EXCEEDED),
    (FleetSaturated, 503, grpc.StatusCode.UNAVAILABLE),
    (LoadFailed, 503, grpc.StatusCode.UNAVAILABLE),
    (InvalidModelConfig, 503, grpc.StatusCode.UNAVAILABLE),
    (ServerUnreachable, 502, grpc.StatusCode.UNAVAILABLE),
    (ServerTimeout, 504, grpc.StatusCode.DEADLINE_EXCEEDED),
    (FleetError, 500, grpc.StatusCode.INTERNAL),
)


def http_status(error: FleetError) -> int:
    """The status code an error is answered with over HTTP."""
    return next(status for kind, status, _ in _TABLE if isinstance(error, kind))


def grpc_code(error: FleetError) -> grpc.StatusCode:
    """The status code an error is answered with over gRPC."""
    return next(code for kind, _, code in _TABLE if isinstance(error, kind))


def retry_after_s(error: FleetError) -> int | None:
    """Whole seconds after which the same request may succeed, where that is known."""
    seconds = getattr(error, "retry_after_s", 0.0)
    return max(1, math.ceil(seconds)) if seconds else None


def refusal(text: str, status: int, headers: dict[str, str] | None = None) -> web.Response:
    """An error in the form of Triton's own answers, which every client of it understands."""
    return web.json_response({"error": text}, status=status, headers=headers)


def problem(error: FleetError) -> web.Response:
    """The answer to a request that ended in one of our errors."""
    retry = retry_after_s(error)
    headers = {} if retry is None else {"Retry-After": str(retry)}
    return refusal(str(error), http_status(error), headers)


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
        return refusal(text, error.status, _allow(error))


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
