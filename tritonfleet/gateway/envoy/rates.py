"""Requests per second, by model and by tenant, in Envoy's words.

A bucket belongs to the virtual host, not to a route: HTTP and gRPC, warm and cold requests share it
as long as both listeners name the same route configuration.
"""

from __future__ import annotations

import math
from typing import Any

from tritonfleet.gateway.envoy.plan import TENANT_HEADER, GatewayPlan, ModelPlan
from tritonfleet.gateway.envoy.refusals import refusal
from tritonfleet.gateway.envoy.typed import Json, extension, seconds, typed
from tritonfleet.spec.traffic import RateSpec

METADATA = "tritonfleet.rate"
"""Under which a route says whose rate it counts for."""
_TENANT_FILTER, _MODEL_FILTER = "tritonfleet.rate.tenant", "tritonfleet.rate.model"
_KIND = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_REFUSED = "x-tritonfleet-refused"
_UNLIMITED = {"max_tokens": 2**32 - 1, "tokens_per_fill": 2**32 - 1, "fill_interval": "1s"}
_ALWAYS = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def http_filters(plan: GatewayPlan) -> list[Json]:
    """The filter that counts requests of tenants, after those of access and before the buffer."""
    return [extension(_TENANT_FILTER, _KIND, stat_prefix="tenant")] if plan.access.rates else []


def late_http_filters(plan: GatewayPlan) -> list[Json]:
    """The filter that counts requests of models, to stand where the model is known.

    It is off but for the routes that turn it on.
    """
    if not _limited(plan):
        return []
    return [{**extension(_MODEL_FILTER, _KIND, stat_prefix="model"), "disabled": True}]


def virtual_host(plan: GatewayPlan) -> Json:
    """Fields of the virtual host: ``typed_per_filter_config``."""
    configs: Json = {}
    if plan.access.rates:
        configs[_TENANT_FILTER] = _tenants(plan)
    if _limited(plan):
        configs[_MODEL_FILTER] = _models(plan)
    return {"typed_per_filter_config": configs} if configs else {}


def route_config(plan: GatewayPlan, model: ModelPlan | None) -> Json:
    """``typed_per_filter_config`` of the routes of a model's inference requests, warm and cold."""
    if model is None or model.limits.rate is None:
        return {}
    # Turned on, with what the virtual host says.
    return {_MODEL_FILTER: typed("envoy.config.route.v3.FilterConfig", config={})}


def route_metadata(plan: GatewayPlan, model: ModelPlan | None) -> Json:
    """``metadata.filter_metadata`` of the same routes."""
    if model is None or model.limits.rate is None:
        return {}
    return {METADATA: {"model": model.name, "retry_after_s": _retry_after_s(model.limits.rate)}}


def reply_mappers(plan: GatewayPlan) -> list[Json]:
    """How refusals are told, for ``local_reply_config``."""
    if not plan.access.rates and not _limited(plan):
        return []
    return refusal(429, f"%RESP({_REFUSED})%")


def _limited(plan: GatewayPlan) -> list[tuple[ModelPlan, RateSpec]]:
    return [(model, model.limits.rate) for model in plan.models if model.limits.rate]


def _tenants(plan: GatewayPlan) -> Json:
    action = {"request_headers": {"header_name": TENANT_HEADER, "descriptor_key": "tenant"}}
    buckets = [_bucket("tenant", name, rate) for name, rate in plan.access.rates.items()]
    text = f"tenant '%REQ({TENANT_HEADER})%' sends more requests than its rate allows"
    # The next token may be further away; how far is in x-ratelimit-reset.
    return _limiter("tenant", action, buckets, text, "1")


def _models(plan: GatewayPlan) -> Json:
    key = {"key": METADATA, "path": [{"key": "model"}]}
    action = {"metadata": {"descriptor_key": "model", "source": "ROUTE_ENTRY", "metadata_key": key}}
    buckets = [_bucket("model", model.name, rate) for model, rate in _limited(plan)]
    text = f"model '%METADATA(ROUTE:{METADATA}:model)%' gets more requests than its rate allows"
    return _limiter("model", action, buckets, text, f"%METADATA(ROUTE:{METADATA}:retry_after_s)%")


def _limiter(name: str, action: Json, buckets: list[Json], text: str, retry_after: str) -> Json:
    return typed(
        _KIND,
        stat_prefix=name,
        # Demanded, and used for requests that fit none of the others.
        token_bucket=_UNLIMITED,
        always_consume_default_token_bucket=False,
        filter_enabled=_ALWAYS,
        filter_enforced=_ALWAYS,
        rate_limits=[{"actions": [action]}],
        descriptors=buckets,
        rate_limited_as_resource_exhausted=True,
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
        response_headers_to_add=[_added(_REFUSED, text), _added("retry-after", retry_after)],
    )


def _bucket(key: str, value: str, rate: RateSpec) -> Json:
    # Envoy fills evenly, and takes whole tokens for whole milliseconds.
    tokens = math.ceil(rate.requests_per_s)
    bucket = {
        "max_tokens": rate.burst or tokens,
        "tokens_per_fill": tokens,
        "fill_interval": seconds(tokens / rate.requests_per_s),
    }
    return {"entries": [{"key": key, "value": value}], "token_bucket": bucket}


def _retry_after_s(rate: RateSpec) -> str:
    return str(math.ceil(1 / rate.requests_per_s))


def _added(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
