"""Where requests come in, and what is done to them before their route is followed."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from tritonfleet.gateway.envoy import access, rates
from tritonfleet.gateway.envoy.clusters import (
    CONNECTION_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
    Protocol,
    inner_socket,
)
from tritonfleet.gateway.envoy.logs import access_log
from tritonfleet.gateway.envoy.plan import PROTOCOL_HEADER, GatewayPlan
from tritonfleet.gateway.envoy.replies import local_reply_config
from tritonfleet.gateway.envoy.routes import (
    BUFFER_FILTER,
    INNER,
    LUA_FILTER,
    OUTER,
    route_configuration,
)
from tritonfleet.gateway.envoy.typed import Json, extension, present, seconds, typed, watched

ROUTES_FILES = {OUTER: "rds.json", INNER: "rds_inner.json"}
_LISTENER = "envoy.config.listener.v3.Listener"
_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_MUTATION = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
_LUA = "envoy.extensions.filters.http.lua.v3.Lua"
_BUFFER = "envoy.extensions.filters.http.buffer.v3.Buffer"
_HEADERS = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_CODEC = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
_RESERVED = ("x-tritonfleet-", "x-envoy-")
"""What Envoy and the activator tell each other; from outside it would change timeouts, retries and
who is believed to call."""
_ANSWERS_ONLY = ("grpc-status", "grpc-retry-pushback-ms", "grpc-internal-encoding-request")
_CONNECTION_BUFFER_BYTES = 2**20
_HEADERS_S = 10.0
_UPLOAD_S = 300.0
_IDLE_S = 3600.0
_MAX_HEADERS, _MAX_HEADERS_KB = 100, 64
_MAX_STREAMS = 1000


def listeners(plan: GatewayPlan, *, inline: bool = False) -> list[Json]:
    """Those of clients, and behind models with a fallback this Envoy's own.

    ``inline``: with all they refer to, for a configuration that is only validated.
    """
    outer = [_outer(plan, "http", inline), _outer(plan, "grpc", inline)]
    if not any(model.has_fallback for model in plan.models):
        return outer
    return [*outer, _inner(plan, "http", inline), _inner(plan, "grpc", inline)]


def _outer(plan: GatewayPlan, protocol: Protocol, inline: bool) -> Json:
    port = plan.http_port if protocol == "http" else plan.grpc_port
    address = {"socket_address": {"address": plan.host, "port_value": port}}
    manager = _manager(plan, protocol, **_of_clients(plan, protocol, inline))
    return _listener(protocol, address, manager, access.transport_socket(plan, inline=inline))


def _inner(plan: GatewayPlan, protocol: Protocol, inline: bool) -> Json:
    address = {"pipe": {"path": str(inner_socket(plan, protocol)), "mode": 0o600}}
    manager = _manager(plan, protocol, **_of_ourselves(plan, protocol, inline))
    return _listener(f"inner-{protocol}", address, manager)


def _listener(name: str, address: Json, manager: Json, transport: Json | None = None) -> Json:
    chain = present({"filters": [manager], "transport_socket": transport})
    return typed(
        _LISTENER,
        name=name,
        address=address,
        filter_chains=[chain],
        per_connection_buffer_limit_bytes=_CONNECTION_BUFFER_BYTES,
    )


# -- the connection manager ------------------------------------------------------------------------


def _manager(plan: GatewayPlan, protocol: Protocol, **fields: Any) -> Json:
    return extension(
        "envoy.filters.network.http_connection_manager",
        _MANAGER,
        codec_type="AUTO" if protocol == "http" else "HTTP2",
        http2_protocol_options=_http2(),
        max_request_headers_kb=_MAX_HEADERS_KB,
        common_http_protocol_options={
            "max_headers_count": _MAX_HEADERS,
            "idle_timeout": seconds(_IDLE_S),
            # A header with an underscore is another one to many a server behind.
            "headers_with_underscores_action": "ALLOW",
        },
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        stream_idle_timeout=seconds(_IDLE_S),
        server_header_transformation="PASS_THROUGH",
        preserve_external_request_id=True,
        **fields,
    )


def _of_clients(plan: GatewayPlan, protocol: Protocol, inline: bool) -> Json:
    return {
        "stat_prefix": protocol,
        **_table(plan, OUTER, protocol, inline),
        "http_filters": _filters(plan, protocol, inline),
        "local_reply_config": local_reply_config(plan, protocol),
        "access_log": access_log(plan, protocol),
        "use_remote_address": True,
        "early_header_mutation_extensions": [_hygiene(protocol)],
        "always_set_request_id_in_response": True,
        "request_headers_timeout": seconds(_HEADERS_S),
        # A stream of gRPC may go on sending for hours; there, the routes set a limit.
        **({"request_timeout": seconds(_UPLOAD_S)} if protocol == "http" else {}),
    }


def _of_ourselves(plan: GatewayPlan, protocol: Protocol, inline: bool) -> Json:
    return {
        "stat_prefix": f"inner-{protocol}",
        **_table(plan, INNER, protocol, inline),
        "http_filters": [*_message(plan, protocol), _router(protocol)],
        "local_reply_config": local_reply_config(plan, protocol, inner=True),
        "skip_xff_append": True,
        "generate_request_id": False,
        "internal_address_config": {"unix_sockets": True},
    }


def _table(plan: GatewayPlan, name: str, protocol: Protocol, inline: bool) -> Json:
    if not inline:
        path = plan.folder / ROUTES_FILES[name]
        return {"rds": {"route_config_name": name, "config_source": watched(str(path))}}
    if protocol == "grpc":
        # Both listeners follow the same table, and of a large fleet once takes seconds.
        return {"route_config": {"name": name}}
    table = route_configuration(plan, inner=name == INNER)
    return {"route_config": {key: value for key, value in table.items() if key != "@type"}}


def _http2() -> Json:
    return {
        "max_concurrent_streams": _MAX_STREAMS,
        "initial_stream_window_size": STREAM_WINDOW_BYTES,
        "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
    }


def _hygiene(protocol: Protocol) -> Json:
    """Takes from what comes in the headers that only we may set.

    And from calls of gRPC, which are marked as such, what readable.lua would else have to look for:
    headers of answers, and binary ones, which Triton does not use.
    """
    mutations = [_remove(prefix=prefix) for prefix in _RESERVED]
    if protocol == "grpc":
        mutations += [{"remove": name} for name in _ANSWERS_ONLY]
        mutations.append(_remove(suffix="-bin"))
        mutations.append({"append": {"header": {"key": PROTOCOL_HEADER, "value": "grpc"}}})
    return extension(
        "envoy.http.early_header_mutation.header_mutation", _MUTATION, mutations=mutations
    )


def _remove(**match: str) -> Json:
    return {"remove_on_match": {"key_matcher": {**match, "ignore_case": True}}}


# -- filters ---------------------------------------------------------------------------------------


def _filters(plan: GatewayPlan, protocol: Protocol, inline: bool) -> list[Json]:
    return [
        *access.http_filters(plan, inline=inline),
        *rates.http_filters(plan),
        *_message(plan, protocol),
        *access.late_http_filters(plan),
        *rates.late_http_filters(plan),
        _router(protocol),
    ]


def _message(plan: GatewayPlan, protocol: Protocol) -> list[Json]:
    """Waits for the whole message, and in gRPC reads the model's name from it."""
    buffer = extension(BUFFER_FILTER, _BUFFER, max_request_bytes=plan.max_request_bytes)
    if protocol == "grpc":
        return [buffer, _without_trailers(), _lua("readable.lua", "name.lua")]
    # The route was chosen before it was known who calls.
    return [buffer, _lua("again.lua")] if plan.access.batch_tenants else [buffer]


def _without_trailers() -> Json:
    """No client of gRPC sends any, and unreadable ones would do harm as such headers do."""
    every = {"remove_on_match": {"key_matcher": {"safe_regex": {"regex": ".*"}}}}
    return extension(
        "envoy.filters.http.header_mutation",
        _HEADERS,
        mutations={"request_trailers_mutations": [every]},
    )


def _router(protocol: Protocol) -> Json:
    # gRPC says in a header what of HTTP must be read from the body.
    codec = extension("envoy.filters.http.upstream_codec", _CODEC)
    upstream = [_lua("absent.lua"), codec] if protocol == "http" else None
    return extension(
        "envoy.filters.http.router",
        _ROUTER,
        suppress_envoy_headers=True,
        upstream_http_filters=upstream,
    )


def _lua(*scripts: str) -> Json:
    """One filter: each costs as much again."""
    folder = files("tritonfleet.gateway.envoy").joinpath("lua")
    text = "\n".join(folder.joinpath(script).read_text("utf-8") for script in scripts)
    return extension(LUA_FILTER, _LUA, default_source_code={"inline_string": text})
