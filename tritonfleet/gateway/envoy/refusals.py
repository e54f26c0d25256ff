"""How Envoy words the refusals of its own filters."""

from __future__ import annotations

from tritonfleet.gateway.envoy.typed import Json


def refusal(
    answered: int, text: str, *, status: int | None = None, caller: str = "", **headers: str
) -> list[Json]:
    """Triton's form of an error in JSON, and the bare text as the message of a gRPC status.

    ``answered`` is what the filter answers, ``status`` what it is to become, ``caller`` a header
    that the request must have. ``headers`` go with it, where the filter has not set them itself.
    """
    conditions = [_answered(answered), *([_has(caller)] if caller else [])]
    fields: Json = {"headers_to_add": [_added(*header) for header in headers.items()]}
    if status is not None:
        fields["status_code"] = status
    return [
        {
            "filter": _all(*conditions, _has("content-type", prefix="application/grpc")),
            "body_format_override": {"text_format_source": {"inline_string": text}},
            **fields,
        },
        {
            "filter": _all(*conditions),
            "body_format_override": {"json_format": {"error": text}},
            **fields,
        },
    ]


def _answered(status: int) -> Json:
    # A key is demanded; nobody sets one of this name.
    value = {"default_value": status, "runtime_key": f"tritonfleet.status.{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _has(name: str, **value: str) -> Json:
    match = {"string_match": value} if value else {"present_match": True}
    return {"header_filter": {"header": {"name": name, **match}}}


def _all(*conditions: Json) -> Json:
    # A conjunction needs two, says Envoy.
    return {"and_filter": {"filters": conditions}} if len(conditions) > 1 else conditions[0]


def _added(name: str, value: str) -> Json:
    return {
        "header": {"key": name.replace("_", "-"), "value": value},
        "append_action": "ADD_IF_ABSENT",
    }
