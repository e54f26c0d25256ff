"""What Envoy says itself, in Triton's form: JSON with the key 'error', or a gRPC status."""

from __future__ import annotations

from tritonfleet.gateway.envoy import access, rates
from tritonfleet.gateway.envoy.clusters import Protocol
from tritonfleet.gateway.envoy.plan import OVERLOADED_HEADER, GatewayPlan
from tritonfleet.gateway.envoy.typed import Json

RETRY_AFTER_S = 1
_AT_LIMIT = (
    "%ROUTE_NAME% is at its limits: as many requests as it may take are running and waiting. "
    "Try again later."
)
_LATE = "%ROUTE_NAME%: no answer in time"
_BROKEN = "The connection to the server broke off; the request may have run (%RESPONSE_FLAGS%)."
_BROKEN_FLAGS = ("UC", "UR", "LR", "UPE")
_ABSENT = "There is no connection to the server; nothing has been run (%RESPONSE_FLAGS%)."
_ABSENT_FLAGS = ("UF", "UH", "NC", "NR")
_INVALID_ARGUMENT, _DEADLINE_EXCEEDED, _RESOURCE_EXHAUSTED, _UNAVAILABLE = 3, 4, 8, 14


def local_reply_config(plan: GatewayPlan, protocol: Protocol, *, inner: bool = False) -> Json:
    """Status, headers and words of every answer that does not come from Triton or the activator."""
    return {
        "mappers": [
            *access.reply_mappers(plan),
            *rates.reply_mappers(plan),
            _at_limit(protocol, inner),
            _too_large(plan, protocol),
            _mapper(_flags("UT"), protocol, _LATE, _DEADLINE_EXCEEDED),
            _mapper(_flags(*_BROKEN_FLAGS), protocol, _BROKEN, _UNAVAILABLE),
            _mapper(_flags(*_ABSENT_FLAGS), protocol, _ABSENT, _UNAVAILABLE),
            _mapper(_status(400), protocol, "%LOCAL_REPLY_BODY%", _INVALID_ARGUMENT),
        ],
        "body_format": _format("%LOCAL_REPLY_BODY%", protocol),
    }


def _at_limit(protocol: Protocol, inner: bool) -> Json:
    headers = {"retry-after": str(RETRY_AFTER_S)}
    if inner:
        headers[OVERLOADED_HEADER] = "1"
    mapper = _mapper(_flags("UO"), protocol, _AT_LIMIT, _RESOURCE_EXHAUSTED, **headers)
    return {**mapper, "status_code": 429}


def _too_large(plan: GatewayPlan, protocol: Protocol) -> Json:
    words = (
        f"The request is larger than {plan.max_request_bytes} bytes. "
        "Raise max_request_bytes or send less at once."
    )
    return _mapper(_status(413), protocol, words, _RESOURCE_EXHAUSTED)


def _mapper(
    condition: Json, protocol: Protocol, words: str, grpc_status: int, **headers: str
) -> Json:
    if protocol == "grpc":
        headers["grpc-status"] = str(grpc_status)
    return {
        "filter": condition,
        "headers_to_add": [_header(name, value) for name, value in headers.items()],
        "body_format_override": _format(words, protocol),
    }


def _format(words: str, protocol: Protocol) -> Json:
    if protocol == "http":
        return {"json_format": {"error": words}}
    return {"text_format_source": {"inline_string": words}}


def _flags(*flags: str) -> Json:
    return {"response_flag_filter": {"flags": list(flags)}}


def _status(code: int) -> Json:
    # Envoy wants a name by which the number could be changed while it runs.
    value = {"default_value": code, "runtime_key": f"local_reply.status_{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
