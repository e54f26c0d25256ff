"""What Envoy is started with. All that may change while it runs is in files that this one names."""

from __future__ import annotations

from tritonfleet.gateway.envoy.clusters import shared_clusters
from tritonfleet.gateway.envoy.plan import GatewayPlan
from tritonfleet.gateway.envoy.residency import LAYER
from tritonfleet.gateway.envoy.typed import Json, extension, watched

CLUSTERS_FILE, LISTENERS_FILE, RESIDENCY_FILE = "cds.json", "lds.json", "residency.json"
_HEAP = "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig"
_CONNECTIONS = (
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
)
_MAX_CONNECTIONS = 16_384
_HEAP_BYTES = 2 * 2**30
_HEAP_BODIES = 32
# Envoy warns of expressions that would be slow in other engines; ours hold whole names.
_BASE: Json = {
    "name": "base",
    "static_layer": {
        "re2.max_program_size.error_level": 10_000,
        # Else what a chunk holds beyond its size is passed over, and the request taken for whole.
        "envoy.reloadable_features.strict_chunk_parsing": True,
    },
}
_STATS = (
    r"cluster\..*\.upstream_rq_(active|total|pending_active|pending_overflow)$",
    r"cluster\.(activator|inner)/.*",
    r"cluster_manager\..*",
    r"listener(_manager)?\..*",
    r"http\..*",
    r"runtime\..*",
    r"server\..*",
    r"overload\..*",
)
"""What somebody reads. Of a thousand models all the others would take most of the memory."""


def bootstrap(plan: GatewayPlan) -> Json:
    """The first file."""
    return {
        **_process(plan),
        "layered_runtime": {"layers": [_BASE, {"name": LAYER, "rtds_layer": _residency(plan)}]},
        "dynamic_resources": {
            "cds_config": _watched(plan, CLUSTERS_FILE),
            "lds_config": _watched(plan, LISTENERS_FILE),
        },
        "static_resources": {"clusters": untyped(shared_clusters(plan))},
    }


def standing_alone(
    plan: GatewayPlan, layer: Json, clusters: list[Json], listeners: list[Json]
) -> Json:
    """The same as one file without any other, which is all that Envoy validates."""
    return {
        **_process(plan),
        "layered_runtime": {"layers": [_BASE, {"name": LAYER, "static_layer": layer}]},
        "static_resources": {
            "clusters": untyped([*shared_clusters(plan), *clusters]),
            "listeners": untyped(listeners),
        },
    }


def untyped(items: list[Json]) -> list[Json]:
    """Without their types, which are known from where they stand."""
    return [{key: value for key, value in item.items() if key != "@type"} for item in items]


def _process(plan: GatewayPlan) -> Json:
    return {
        "node": {"id": "tritonfleet", "cluster": "tritonfleet"},
        "admin": {"address": {"pipe": {"path": str(plan.admin), "mode": 0o600}}},
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": _patterns()}}},
        "overload_manager": _overload(plan),
    }


def _residency(plan: GatewayPlan) -> Json:
    return {"name": LAYER, "rtds_config": _watched(plan, RESIDENCY_FILE)}


def _watched(plan: GatewayPlan, name: str) -> Json:
    return watched(str(plan.folder / name))


def _patterns() -> list[Json]:
    return [{"safe_regex": {"regex": pattern}} for pattern in _STATS]


def _overload(plan: GatewayPlan) -> Json:
    """Refuses new requests before memory runs out, and new connections before files do."""
    heap = _HEAP_BYTES + _HEAP_BODIES * plan.max_request_bytes
    return {
        "refresh_interval": "0.250s",
        "resource_monitors": [
            extension("envoy.resource_monitors.fixed_heap", _HEAP, max_heap_size_bytes=heap),
            extension(
                "envoy.resource_monitors.global_downstream_max_connections",
                _CONNECTIONS,
                max_active_downstream_connections=_MAX_CONNECTIONS,
            ),
        ],
        "actions": [
            _action("envoy.overload_actions.shrink_heap", 0.9),
            _action("envoy.overload_actions.stop_accepting_requests", 0.95),
        ],
    }


def _action(name: str, threshold: float) -> Json:
    trigger = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": threshold}}
    return {"name": name, "triggers": [trigger]}
