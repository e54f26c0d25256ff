"""The small file that changes many times a minute: which direct routes are open.

Envoy reads it as runtime values. It names resident models only, so that a change takes the same
time however many models the fleet has.
"""

from __future__ import annotations

from tritonfleet.gateway.envoy.plan import GatewayPlan, Residency
from tritonfleet.gateway.envoy.typed import Json, resources, typed

LAYER = "residency"
GENERATION = "generation"
"""The runtime value by which Envoy says how new the residency is that it follows."""
_RUNTIME = "envoy.service.runtime.v3.Runtime"
_PER_PERCENT = {"TEN_THOUSAND": 100, "MILLION": 10_000}


def resident_key(server: str, model: str) -> str:
    """Opens the direct way to a model on a server."""
    return f"resident|{server}|{model}"


def canary_key(server: str, model: str) -> str:
    """The share of a model's requests that its new version gets."""
    return f"canary|{server}|{model}"


def mirror_key(model: str) -> str:
    """The share of a model's requests that are copied."""
    return f"mirror|{model}"


def residency_file(plan: GatewayPlan, residency: Residency) -> Json:
    """The content of the watched file."""
    layer = layer_of(plan, residency)
    runtime = typed(_RUNTIME, name=LAYER, layer=layer)
    return resources(str(residency.generation), [runtime])


def layer_of(plan: GatewayPlan, residency: Residency) -> Json:
    """Runtime values. Servers that the plan does not know are left out: no route leads there."""
    servers = {server.name for server in plan.servers}
    on = {model: server for model, server in residency.on.items() if server in servers}
    canaries = {
        canary_key(server, model): _share(residency.canary_percent[model], "TEN_THOUSAND")
        for model, server in on.items()
        if model in residency.canary_percent
    }
    # Another denominator than the canary's. Envoy draws one number for both: with the same one,
    # the copied requests would be those of the canary and no others.
    mirrors = {
        mirror_key(model): _share(percent, "MILLION")
        for model, percent in residency.mirror_percent.items()
    }
    resident = {resident_key(server, model): 100 for model, server in on.items()}
    return {GENERATION: residency.generation, **resident, **canaries, **mirrors}


def _share(percent: float, denominator: str) -> Json:
    return {"numerator": round(percent * _PER_PERCENT[denominator]), "denominator": denominator}
