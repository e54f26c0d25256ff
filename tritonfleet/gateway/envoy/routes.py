"""Which way a request goes: straight to the tritonserver that holds its model, or to the activator.

One table for both protocols. HTTP requests are told apart by their path, gRPC requests by the
header into which the model's name was read. A direct route is open while residency says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonfleet.gateway.envoy import access, rates, retries
from tritonfleet.gateway.envoy.clusters import (
    SERVER_KEY,
    Protocol,
    activator_cluster,
    inner_cluster,
    model_cluster,
)
from tritonfleet.gateway.envoy.plan import (
    ABSENT_HEADER,
    MIRROR_HEADER,
    MODEL_HEADER,
    OVERLOADED_HEADER,
    PROTOCOL_HEADER,
    RESIDENCY_HEADER,
    GatewayPlan,
    ModelPlan,
    ServerAddress,
    Split,
)
from tritonfleet.gateway.envoy.residency import canary_key, mirror_key, resident_key
from tritonfleet.gateway.envoy.shares import class_matches, shares
from tritonfleet.gateway.envoy.typed import Json, extension, present, seconds, typed
from tritonfleet.spec.traffic import LatencyClass

OUTER, INNER = "models", "inner"
"""Names of the route configurations: what clients meet, and what lies behind a fallback."""
GRPC_SERVICE = "/inference.GRPCInferenceService/"
LUA_FILTER = "envoy.filters.http.lua"
BUFFER_FILTER = "envoy.filters.http.buffer"
_ROUTES = "envoy.config.route.v3.RouteConfiguration"
_HEADER_INPUT = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
_BUFFER_PER_ROUTE = "envoy.extensions.filters.http.buffer.v3.BufferPerRoute"
_MODEL, _ASK = "(/v2/models/[^/?]+)", "(infer|generate|generate_stream)"
_INFERENCE = rf"{_MODEL}(/versions/[^/?]+)?/{_ASK}(\?.*)?"
_UPLOAD_IDLE_S = 60.0
_IDLE_S = 3600.0
_GRACE_S = 1.0
_NEVER = {"numerator": 0, "denominator": "HUNDRED"}
_EVERY: Json = {"prefix": "/"}
_UNVERSIONED: Json = {"safe_regex": {"regex": f"{_MODEL}/{_ASK}"}}
_WARM: Json = {
    "header": {"key": RESIDENCY_HEADER, "value": "warm"},
    "append_action": "ADD_IF_ABSENT",
}


def route_configuration(plan: GatewayPlan, *, inner: bool = False) -> Json:
    """The whole table."""
    host: Json = {
        "name": "all",
        "domains": ["*"],
        "include_request_attempt_count": not inner,
        "retry_policy": retries.until_it_is_back(),
        "matcher": _table(plan, inner),
        **({} if inner else _of_clients(plan)),
    }
    return typed(_ROUTES, name=INNER if inner else OUTER, virtual_hosts=[host])


def _of_clients(plan: GatewayPlan) -> Json:
    wishes = [access.virtual_host(plan), rates.virtual_host(plan)]
    filters = {key: value for wish in wishes for key, value in _filters(wish).items()}
    return {
        **{key: value for wish in wishes for key, value in wish.items()},
        "typed_per_filter_config": filters,
        # Triton does not name itself; the activator's library would.
        "response_headers_to_remove": [ABSENT_HEADER, OVERLOADED_HEADER, "server"],
    }


def _filters(wish: Json) -> Json:
    found: Json = wish.get("typed_per_filter_config", {})
    return found


# -- the table -------------------------------------------------------------------------------------


def _table(plan: GatewayPlan, inner: bool) -> Json:
    """What is asked is found out once, not by each of thousands of routes."""
    models = [model for model in plan.models if model.has_fallback or not inner]
    rest = _routes([_plain(plan, "http")])
    about = _by_path({model.name: _routes([_plain(plan, "http", model)]) for model in models})
    asked = _by_path({model.name: _http(plan, model, inner) for model in models})
    cases = [
        (_header_is(PROTOCOL_HEADER, {"exact": "grpc"}), _by_model(plan, models, inner)),
        (
            _header_is(":path", {"safe_regex": {"google_re2": {}, "regex": _INFERENCE}}),
            {**asked, "on_no_match": rest},
        ),
    ]
    if plan.access.tenants and models:
        rest = {"matcher": {**about, "on_no_match": rest}}
    matchers = [
        {"predicate": predicate, "on_match": {"matcher": matcher}} for predicate, matcher in cases
    ]
    return {"matcher_list": {"matchers": matchers}, "on_no_match": rest}


def _by_path(found: dict[str, Json]) -> Json:
    if not found:
        return {}
    paths = {f"/v2/models/{model}/": action for model, action in found.items()}
    return {"matcher_tree": {"input": _header_input(":path"), "prefix_match_map": {"map": paths}}}


def _by_model(plan: GatewayPlan, models: list[ModelPlan], inner: bool) -> Json:
    rest = {"on_no_match": _routes(_grpc_rest(plan))}
    if not models:
        return rest
    names = {model.name: _grpc(plan, model, inner) for model in models}
    header = _header_input(MODEL_HEADER)
    return {"matcher_tree": {"input": header, "exact_match_map": {"map": names}}, **rest}


def _header_is(name: str, match: Json) -> Json:
    return {"single_predicate": {"input": _header_input(name), "value_match": match}}


def _routes(routes: list[Json]) -> Json:
    return {"action": extension("routes", "envoy.config.route.v3.RouteList", routes=routes)}


def _header_input(name: str) -> Json:
    return extension("header", _HEADER_INPUT, header_name=name)


# -- a model ---------------------------------------------------------------------------------------


def _http(plan: GatewayPlan, model: ModelPlan, inner: bool) -> Json:
    if model.has_fallback and not inner:
        direct = _through_inner(plan, model, "http")
    else:
        direct = list(_http_direct(plan, model))
    return _routes([*direct, _cold(plan, model, "http")])


def _http_direct(plan: GatewayPlan, model: ModelPlan) -> Iterator[Json]:
    for server, key, version in _ways(plan, model):
        if version is None:
            route = _direct(plan, model, "http", server, {**_EVERY, **_while(key)})
        else:
            route = _direct(plan, model, "http", server, {**_UNVERSIONED, **_while(key)})
            route["route"]["regex_rewrite"] = _to_version(version)
        yield from _classified(plan, model, route)


def _to_version(version: int) -> Json:
    return {
        "pattern": {"regex": f"^{_MODEL}/{_ASK}"},
        "substitution": f"\\1/versions/{version}/\\2",
    }


def _grpc(plan: GatewayPlan, model: ModelPlan, inner: bool) -> Json:
    if model.has_fallback and not inner:
        direct = _through_inner(plan, model, "grpc")
    else:
        direct = list(_grpc_direct(plan, model))
    return _routes([*direct, _cold(plan, model, "grpc")])


def _grpc_direct(plan: GatewayPlan, model: ModelPlan) -> Iterator[Json]:
    for server, key, version in _ways(plan, model):
        route = _direct(plan, model, "grpc", server, {**_EVERY, **_while(key)})
        if version is not None:
            # Read by the filter that has found the name: only it can write into the message.
            route.setdefault("metadata", {"filter_metadata": {}})
            route["metadata"]["filter_metadata"][LUA_FILTER] = {"version": str(version)}
        yield from _classified(plan, model, route)


def _ways(plan: GatewayPlan, model: ModelPlan) -> Iterator[tuple[ServerAddress, str, int | None]]:
    """Servers, what opens the way there, and the version that is meant where none is named."""
    split = model.split or Split()
    for server in plan.servers:
        if split.canary is not None:
            yield server, canary_key(server.name, model.name), split.canary
        if split.stable is not None:
            yield server, resident_key(server.name, model.name), split.stable
        yield server, resident_key(server.name, model.name), None


# -- a route ---------------------------------------------------------------------------------------


def _direct(
    plan: GatewayPlan, model: ModelPlan, protocol: Protocol, server: ServerAddress, match: Json
) -> Json:
    action = _action(
        protocol,
        model_cluster(protocol, model.name),
        model.limits.timeout_s,
        retry_policy=retries.at_the_activator(protocol, model.name),
        metadata_match=_on(plan, server),
        request_mirror_policies=_mirrors(model, protocol),
    )
    return {**_asking(plan, model, match, action), "response_headers_to_add": [_WARM]}


def _through_inner(plan: GatewayPlan, model: ModelPlan, protocol: Protocol) -> list[Json]:
    action = _action(
        protocol,
        inner_cluster(protocol),
        model.limits.timeout_s,
        retry_policy=retries.at_the_fallback(protocol),
    )
    keys = [resident_key(server.name, model.name) for server in plan.servers]
    return [_asking(plan, model, {**_EVERY, **_while(key)}, action) for key in keys]


def _cold(plan: GatewayPlan, model: ModelPlan, protocol: Protocol) -> Json:
    limit_s = model.limits.timeout_s
    action = _action(
        protocol,
        activator_cluster(protocol),
        # The activator keeps the limit itself, and knows better what the time went into.
        limit_s and limit_s + _GRACE_S,
        request_mirror_policies=_mirrors(model, protocol),
    )
    return _asking(plan, model, _EVERY, action)


def _asking(plan: GatewayPlan, model: ModelPlan, match: Json, action: Json) -> Json:
    """A route for requests of inference."""
    filters = {**access.route_config(plan, model), **rates.route_config(plan, model)}
    metadata = rates.route_metadata(plan, model)
    return present(
        {
            "name": model.name,
            "match": match,
            "route": action,
            "metadata": {"filter_metadata": dict(metadata)} if metadata else None,
            "typed_per_filter_config": filters or None,
        }
    )


def _plain(
    plan: GatewayPlan, protocol: Protocol, model: ModelPlan | None = None, match: Json | None = None
) -> Json:
    """A route to the activator, for all that is no inference."""
    action = _action(protocol, activator_cluster(protocol))
    return {
        "name": model.name if model else "",
        "match": match or _EVERY,
        "route": action,
        "typed_per_filter_config": access.route_config(plan, model),
    }


def _grpc_rest(plan: GatewayPlan) -> list[Json]:
    """Calls that name no model which is known; and every call, before its message is read."""
    stream = _plain(plan, "grpc", match={"path": GRPC_SERVICE + "ModelStreamInfer"})
    unbuffered = {BUFFER_FILTER: typed(_BUFFER_PER_ROUTE, disabled=True)}
    stream["typed_per_filter_config"] = {**stream["typed_per_filter_config"], **unbuffered}
    # Its deadline is kept by the activator. Envoy could only break off a stream that has begun to
    # answer, and the caller would take that for a fault.
    del stream["route"]["max_stream_duration"]
    infer = _plain(plan, "grpc", match={"path": GRPC_SERVICE + "ModelInfer"})
    # While the message is on its way in. The route of its model knows no such hurry.
    infer["route"]["idle_timeout"] = seconds(_UPLOAD_IDLE_S)
    return [stream, infer, _plain(plan, "grpc")]


def _action(protocol: Protocol, cluster: str, limit_s: float | None = None, **fields: Any) -> Json:
    limit = seconds(limit_s or 0)
    action = {"cluster": cluster, "timeout": limit, **fields}
    if protocol == "grpc":
        # Not that of the route which was taken before the message was read.
        action["idle_timeout"] = seconds(_IDLE_S)
        # The caller's deadline, or ours if that is less. It takes the place of 'timeout'.
        action["max_stream_duration"] = {
            "grpc_timeout_header_max": limit,
            "max_stream_duration": limit,
        }
    return present(action)


def _classified(plan: GatewayPlan, model: ModelPlan, route: Json) -> list[Json]:
    """The route, once for each class of requests that the model's limit is divided into."""
    share = shares(plan, model)
    if share is None:
        return [route]
    if not share.divided:
        return [_with_class(route, [], "interactive")]
    return [_with_class(route, headers, kind) for headers, kind in class_matches(plan, model)]


def _with_class(route: Json, headers: list[Json], kind: LatencyClass) -> Json:
    match = {**route["match"], "headers": headers} if headers else route["match"]
    priority = "HIGH" if kind == "interactive" else "DEFAULT"
    return {**route, "match": match, "route": {**route["route"], "priority": priority}}


def _mirrors(model: ModelPlan, protocol: Protocol) -> list[Json] | None:
    if not model.mirrored:
        return None
    share = {"default_value": _NEVER, "runtime_key": mirror_key(model.name)}
    # The name of the host, which Envoy marks too, is not told to whoever answers gRPC.
    mark = {"header": {"key": MIRROR_HEADER, "value": "1"}}
    return [
        {
            "cluster": activator_cluster(protocol),
            "runtime_fraction": share,
            "request_headers_mutations": [{"append": mark}],
        }
    ]


def _on(plan: GatewayPlan, server: ServerAddress) -> Json | None:
    if len(plan.servers) == 1:
        return None
    return {"filter_metadata": {"envoy.lb": {SERVER_KEY: server.name}}}


def _while(key: str) -> Json:
    return {"runtime_fraction": {"default_value": _NEVER, "runtime_key": key}}
