"""Where requests go: the tritonservers of each model, and the activator behind them.

A model has a cluster for HTTP and one for gRPC. Priority 0 are the tritonservers, priority 1 is the
activator: an ejected server and a retry both lead there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tritonfleet.gateway.envoy.plan import GatewayPlan, ModelPlan
from tritonfleet.gateway.envoy.shares import Shares, shares
from tritonfleet.gateway.envoy.typed import Json, present, seconds, typed
from tritonfleet.spec.traffic import LimitsSpec, OutlierDetection

Protocol = Literal["http", "grpc"]

SERVER_KEY = "server"
"""The metadata by which a route picks one of several tritonservers."""
STREAM_WINDOW_BYTES = 2**20
CONNECTION_WINDOW_BYTES = 4 * 2**20
_CLUSTER = "envoy.config.cluster.v3.Cluster"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_UNLIMITED = 1_000_000
_QUEUE = 1024
"""What may wait for a model whose concurrency is limited, where nothing else is said."""
_IDLE_S = 60.0
_LIMITED_IDLE_S = 1.0
_LIMITED_REUSE = 64
"""Requests on one connection of a limited model. Each worker has connections of its own: one that
kept them for ever would keep the others out."""
_CONNECT_S = 1.0
_EJECTION_INTERVAL_S = 0.5


def model_cluster(protocol: Protocol, model: str) -> str:
    """The name of a model's cluster."""
    return f"{protocol}/{model}"


def activator_cluster(protocol: Protocol) -> str:
    """The name of the activator's own cluster."""
    return f"activator/{protocol}"


def inner_cluster(protocol: Protocol) -> str:
    """The name of the cluster that leads into this same Envoy once more."""
    return f"inner/{protocol}"


def inner_socket(plan: GatewayPlan, protocol: Protocol) -> Path:
    """Where this Envoy takes what it has sent itself."""
    return plan.folder / f"inner-{protocol}.sock"


def model_clusters(plan: GatewayPlan) -> list[Json]:
    """Those of every model; none as long as there is no tritonserver."""
    if not plan.servers:
        return []
    return [
        _of_model(plan, model, protocol) for model in plan.models for protocol in ("http", "grpc")
    ]


def shared_clusters(plan: GatewayPlan) -> list[Json]:
    """The activator, and the way into this Envoy with the activator behind it."""
    return [
        cluster
        for protocol in ("http", "grpc")
        for cluster in (_activator(plan, protocol), _inner(plan, protocol))
    ]


def _activator(plan: GatewayPlan, protocol: Protocol) -> Json:
    endpoints = [_locality(0, [_socket(_activator_socket(plan, protocol))])]
    return _cluster(activator_cluster(protocol), endpoints, _protocol(protocol), [_open()])


def _inner(plan: GatewayPlan, protocol: Protocol) -> Json:
    endpoints = [
        _locality(0, [_socket(inner_socket(plan, protocol))]),
        _locality(1, [_socket(_activator_socket(plan, protocol))]),
    ]
    return _cluster(inner_cluster(protocol), endpoints, _protocol(protocol), [_open()])


def _of_model(plan: GatewayPlan, model: ModelPlan, protocol: Protocol) -> Json:
    share = shares(plan, model)
    queued = share is not None and model.limits.queue_limit != 0
    return {
        **_cluster(
            model_cluster(protocol, model.name),
            _endpoints(plan, protocol),
            _protocol(protocol, one_at_a_time=queued),
            _thresholds(model.limits, share),
        ),
        **_subsets(plan),
        **_outliers(model.limits.outlier_detection, len(plan.servers)),
    }


def _cluster(name: str, endpoints: list[Json], options: Json, thresholds: list[Json]) -> Json:
    return typed(
        _CLUSTER,
        name=name,
        type="STATIC",
        connect_timeout=seconds(_CONNECT_S),
        load_assignment={"cluster_name": name, "endpoints": endpoints},
        # With no healthy server the activator is right, not any server at random.
        common_lb_config={"healthy_panic_threshold": {"value": 0}},
        circuit_breakers={"thresholds": thresholds},
        typed_extension_protocol_options={_OPTIONS: options},
    )


# -- endpoints -------------------------------------------------------------------------------------


def _endpoints(plan: GatewayPlan, protocol: Protocol) -> list[Json]:
    names = [server.name for server in plan.servers]
    servers = [
        _endpoint(_tcp(getattr(server, protocol)), _labelled(plan, server.name))
        for server in plan.servers
    ]
    activator = _endpoint(_pipe(_activator_socket(plan, protocol)), _labelled(plan, names))
    return [_locality(0, servers), _locality(1, [activator])]


def _subsets(plan: GatewayPlan) -> Json:
    if len(plan.servers) == 1:
        return {}
    selector = {"keys": [SERVER_KEY]}
    # Of the activator, which is there whatever the server, the metadata is a list.
    return {"lb_subset_config": {"subset_selectors": [selector], "list_as_any": True}}


def _labelled(plan: GatewayPlan, server: str | list[str]) -> Json | None:
    if len(plan.servers) == 1:
        return None
    return {"filter_metadata": {"envoy.lb": {SERVER_KEY: server}}}


def _locality(priority: int, endpoints: list[Json]) -> Json:
    return {"priority": priority, "lb_endpoints": endpoints}


def _endpoint(address: Json, metadata: Json | None = None) -> Json:
    return present({"endpoint": {"address": address}, "metadata": metadata})


def _socket(path: Path) -> Json:
    return _endpoint(_pipe(path))


def _activator_socket(plan: GatewayPlan, protocol: Protocol) -> Path:
    return plan.activator_http if protocol == "http" else plan.activator_grpc


def _pipe(path: Path) -> Json:
    return {"pipe": {"path": str(path)}}


def _tcp(address: str) -> Json:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


# -- limits ----------------------------------------------------------------------------------------


def _thresholds(limits: LimitsSpec, share: Shares | None) -> list[Json]:
    if share is None:
        return [_open()]
    high = _threshold("HIGH", share.interactive, limits.queue_limit)
    # Where the classes are not told apart, all requests take the first.
    return (
        [high, _threshold("DEFAULT", share.batch, limits.queue_limit)] if share.divided else [high]
    )


def _threshold(priority: str, concurrency: int, queue_limit: int | None) -> Json:
    """The limits of one class.

    Where requests may wait, it is the number of connections that is limited, with one request on
    each: what finds none waits for one. Where none may wait, it is the number of requests.
    """
    if queue_limit == 0:
        return {**_open(priority), "max_requests": concurrency}
    # A request also waits while its connection is being made: a burst that finds none is to get in.
    queue = max(concurrency, _QUEUE if queue_limit is None else queue_limit)
    return {**_open(priority), "max_connections": concurrency, "max_pending_requests": queue}


def _open(priority: str = "DEFAULT") -> Json:
    names = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {"priority": priority, **dict.fromkeys(names, _UNLIMITED)}


def _outliers(rule: OutlierDetection | None, servers: int) -> Json:
    """Passes over a server that fails on a model, where that is wished.

    Only there: Envoy looks after each such cluster twice a second, and a refused connection leads
    to the activator in any case. That one is among the hosts and is to stay: one is always left.
    """
    if rule is None:
        return {}
    found = {
        "interval": seconds(_EJECTION_INTERVAL_S),
        "split_external_local_origin_errors": True,
        "consecutive_5xx": rule.consecutive_errors,
        "enforcing_consecutive_5xx": 100,
        "consecutive_local_origin_failure": rule.consecutive_errors,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "base_ejection_time": seconds(rule.base_ejection_time_s),
        "max_ejection_percent": 100 * servers // (servers + 1),
    }
    return {"outlier_detection": found}


# -- protocols -------------------------------------------------------------------------------------


def _protocol(protocol: Protocol, one_at_a_time: bool = False) -> Json:
    options = _http2(one_at_a_time) if protocol == "grpc" else {"http_protocol_options": {}}
    return typed(
        _OPTIONS,
        explicit_http_config=options,
        common_http_protocol_options=_connections(one_at_a_time),
    )


def _connections(one_at_a_time: bool) -> Json:
    if not one_at_a_time:
        return {"idle_timeout": seconds(_IDLE_S)}
    return {
        "idle_timeout": seconds(_LIMITED_IDLE_S),
        "max_requests_per_connection": _LIMITED_REUSE,
    }


def _http2(one_at_a_time: bool) -> Json:
    options: Json = {
        "initial_stream_window_size": STREAM_WINDOW_BYTES,
        "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
    }
    if one_at_a_time:
        options["max_concurrent_streams"] = 1
    return {"http2_protocol_options": options}
