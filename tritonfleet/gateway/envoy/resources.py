"""The files of Envoy's configuration, from facts and wishes. Pure: nothing here writes or runs."""

from __future__ import annotations

import hashlib
import json

from tritonfleet.gateway.envoy import access
from tritonfleet.gateway.envoy.bootstrap import (
    CLUSTERS_FILE,
    LISTENERS_FILE,
    RESIDENCY_FILE,
    bootstrap,
    standing_alone,
)
from tritonfleet.gateway.envoy.clusters import model_clusters
from tritonfleet.gateway.envoy.listeners import ROUTES_FILES, listeners
from tritonfleet.gateway.envoy.plan import GatewayPlan, Residency
from tritonfleet.gateway.envoy.residency import layer_of, residency_file
from tritonfleet.gateway.envoy.routes import INNER, OUTER, route_configuration
from tritonfleet.gateway.envoy.typed import Json
from tritonfleet.gateway.envoy.typed import resources as _resources

__all__ = ["RESIDENCY_FILE", "files", "residency_file", "validation_file"]


def files(plan: GatewayPlan) -> dict[str, Json]:
    """What is to be written to the plan's folder, by name, beside the residency.

    In the order of writing: a file comes after those that it refers to.
    """
    return {
        **access.secret_files(plan),
        CLUSTERS_FILE: _watched([*model_clusters(plan), *access.clusters(plan)]),
        ROUTES_FILES[OUTER]: _watched([route_configuration(plan)]),
        ROUTES_FILES[INNER]: _watched([route_configuration(plan, inner=True)]),
        LISTENERS_FILE: _watched(listeners(plan)),
        "bootstrap.json": bootstrap(plan),
    }


def validation_file(plan: GatewayPlan) -> Json:
    """All of it in one, because Envoy does not validate the files that it would watch."""
    return standing_alone(
        plan,
        layer_of(plan, Residency()),
        [*model_clusters(plan), *access.clusters(plan)],
        listeners(plan, inline=True),
    )


def _watched(items: list[Json]) -> Json:
    # Envoy reports the version that it follows: the same for the same content.
    digest = hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()
    return _resources(digest[:16], items)
