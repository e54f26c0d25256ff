"""Which requests of a model are of the batch class, and how much of it they may take."""

from __future__ import annotations

from dataclasses import dataclass

from tritonfleet.gateway.envoy.plan import (
    CLASS_HEADER,
    TENANT_HEADER,
    GatewayPlan,
    ModelPlan,
)
from tritonfleet.gateway.envoy.typed import Json
from tritonfleet.spec.traffic import LatencyClass


@dataclass(frozen=True, slots=True)
class Shares:
    """How many requests of each class may be inside one model at once; together its limit."""

    interactive: int
    batch: int

    @property
    def divided(self) -> bool:
        """Whether the classes are told apart."""
        return self.batch > 0


def shares(plan: GatewayPlan, model: ModelPlan) -> Shares | None:
    """How the model's limit is divided; None where it has none.

    A limit of which batch gets a part is smaller for all others. So there is no such part where
    nobody has ever spoken of batch: the caller's own word alone does not divide it.
    """
    limit = model.limits.max_concurrency
    if limit is None:
        return None
    batch = min(_batch(plan, model, limit), limit - 1)
    return Shares(limit - batch, batch)


def _batch(plan: GatewayPlan, model: ModelPlan, limit: int) -> int:
    if model.limits.batch_concurrency is not None:
        return model.limits.batch_concurrency
    quarter = max(1, limit // 4)
    if model.latency_class == "batch":
        return limit - quarter
    return quarter if plan.access.batch_tenants else 0


def class_matches(plan: GatewayPlan, model: ModelPlan) -> list[tuple[list[Json], LatencyClass]]:
    """Conditions on the headers and the class they mean, the first that holds counts.

    Anybody may call a request of theirs batch. A tenant of the batch class cannot call itself
    interactive; everybody else can, whatever the model's own class.
    """
    matches: list[tuple[list[Json], LatencyClass]] = [([_header(CLASS_HEADER, ["batch"])], "batch")]
    if plan.access.batch_tenants:
        matches.append(([_header(TENANT_HEADER, plan.access.batch_tenants)], "batch"))
    matches.append(([_header(CLASS_HEADER, ["interactive"])], "interactive"))
    return [*matches, ([], model.latency_class)]


def _header(name: str, values: tuple[str, ...] | list[str]) -> Json:
    if len(values) == 1:
        return {"name": name, "string_match": {"exact": values[0]}}
    words = "|".join(value.replace(".", r"\.") for value in values)
    return {"name": name, "string_match": {"safe_regex": {"regex": words}}}
