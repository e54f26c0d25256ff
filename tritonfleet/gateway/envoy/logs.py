"""What is written down of each request: one line of JSON. Never a body, a key or a query."""

from __future__ import annotations

from tritonfleet.gateway.envoy.clusters import Protocol
from tritonfleet.gateway.envoy.plan import (
    FALLBACK_HEADER,
    RESIDENCY_HEADER,
    TENANT_HEADER,
    WAIT_HEADER,
    GatewayPlan,
)
from tritonfleet.gateway.envoy.typed import Json, extension

_FILE = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
_CEL = (
    "envoy.access_loggers.extension_filters.cel",
    "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
)
_COLD = f"response.headers['{RESIDENCY_HEADER}'] == 'cold'"
# Envoy wants a name by which the number could be changed while it runs.
_LEAST_ERROR = {"default_value": 400, "runtime_key": "access_log.least_error"}
_FIELDS: Json = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "request_id": "%REQ(X-REQUEST-ID):200%",
    "protocol": "%PROTOCOL%",
    "method": "%REQ(:METHOD):20%",
    "path": "%PATH(NQ:ORIG_OR_PATH):300%",
    "model": "%ROUTE_NAME%",
    "tenant": f"%REQ({TENANT_HEADER})%",
    "residency": f"%RESP({RESIDENCY_HEADER})%",
    "wait_ms": f"%RESP({WAIT_HEADER})%",
    "fallback": f"%RESP({FALLBACK_HEADER})%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS_NUMBER%",
    "flags": "%RESPONSE_FLAGS%",
    "duration_ms": "%DURATION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "upstream": "%UPSTREAM_CLUSTER%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
}


def access_log(plan: GatewayPlan, protocol: Protocol) -> list[Json]:
    """Where and what; empty where nothing is to be logged."""
    if plan.access_log is None:
        return []
    log = extension(
        "envoy.access_loggers.file",
        _FILE,
        path=str(plan.access_log),
        log_format={"json_format": _FIELDS},
    )
    return [{**log, "filter": _notable(protocol)}] if plan.only_notable else [log]


def _notable(protocol: Protocol) -> Json:
    """Errors, refusals and cold starts."""
    failed = {"status_code_filter": {"comparison": {"op": "GE", "value": _LEAST_ERROR}}}
    filters = [failed, {"extension_filter": extension(*_CEL, expression=_COLD)}]
    if protocol == "grpc":
        filters.append({"grpc_status_filter": {"statuses": ["OK"], "exclude": True}})
    return {"or_filter": {"filters": filters}}
