"""The smallest configuration that Envoy starts with, for tests of everything around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tritonfleet.gateway.envoy import files

_T = "type.googleapis.com/envoy."
_HTTP = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": _T + "extensions.filters.http.router.v3.Router"},
}


def write_bootstrap(
    folder: Path,
    port: int = 0,
    *,
    behind: str | None = None,
    listeners: Sequence[str] = ("http", "grpc"),
) -> None:
    """Listeners that answer 200, or forward to ``behind``."""
    address = behind.rsplit(":", 1) if behind else None
    clusters = [_cluster(*address)] if address else []
    bootstrap = {
        "admin": {"address": {"pipe": {"path": f"{folder}/admin.sock", "mode": 0o600}}},
        "static_resources": {
            "listeners": [_listener(name, port, bool(behind)) for name in listeners],
            "clusters": clusters,
        },
    }
    files.prepare(folder)
    files.write(folder / "bootstrap.json", files.encode(bootstrap))


def _listener(name: str, port: int, forwards: bool) -> dict[str, Any]:
    action = {"route": {"cluster": "behind"}} if forwards else {"direct_response": {"status": 200}}
    manager = {
        "@type": _T + _HTTP,
        "stat_prefix": name,
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}
            ]
        },
        "http_filters": [_ROUTER],
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [network]}],
    }


def _cluster(host: str, port: str) -> dict[str, Any]:
    endpoint = {"address": {"socket_address": {"address": host, "port_value": int(port)}}}
    return {
        "name": "behind",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "behind",
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }
