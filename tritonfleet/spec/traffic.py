"""Who may call a model, how much, and where its requests go when it cannot answer or changes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from tritonfleet.spec.base import ModelName, Spec

LatencyClass = Literal["interactive", "batch"]
SecretReference = Annotated[str, StringConstraints(pattern=r"^(env|file):.+$")]
"""Where a secret is found: ``env:NAME`` or ``file:PATH``; never the secret itself."""
ModelPattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.*?-]+$")]
"""A model's name, or a shell pattern such as ``team-a-*``."""


class RateSpec(Spec):
    """A token bucket."""

    requests_per_s: float = Field(gt=0)
    burst: int | None = Field(
        None, ge=1, description="Requests at once after a pause; one second's worth if not given."
    )


class OutlierDetection(Spec):
    """When a server that fails on this model is passed over for a while."""

    consecutive_errors: int = Field(
        5, ge=1, description="Answers 5xx, broken or refused connections in a row."
    )
    base_ejection_time_s: float = Field(
        2.0, gt=0, description="How long; longer each time it happens again."
    )


class LimitsSpec(Spec):
    """What one model may take from the others."""

    max_concurrency: int | None = Field(None, ge=1, description="Requests inside Triton at once.")
    batch_concurrency: int | None = Field(
        None,
        ge=1,
        description="How many of them the batch class has for itself, the others being kept for "
        "interactive requests. Where not given: a quarter if a tenant is of the batch class, three "
        "quarters for a model of the batch class, else the classes are not told apart.",
    )
    queue_limit: int | None = Field(
        None, ge=0, description="Requests that may wait; more are refused at once."
    )
    timeout_s: float | None = Field(None, gt=0, description="From arrival to answer.")
    rate: RateSpec | None = Field(None, description="More than that is refused at once.")
    outlier_detection: OutlierDetection | None = None


class MirrorSpec(Spec):
    """Copies of a model's requests for another one, whose answers nobody sees."""

    model: ModelName
    percent: float = Field(100.0, gt=0, le=100)


class RolloutSpec(Spec):
    """How a newly published version comes into service while the fleet runs."""

    strategy: Literal["swap", "canary", "manual"] = Field(
        "swap",
        description="swap: it takes over once it is warm; canary: it gets a share until it is "
        "promoted or rolled back; manual: nothing happens before 'tritonfleet rollout'.",
    )
    percent: float = Field(10.0, ge=0, le=100, description="The share of a canary.")


class TenantSpec(Spec):
    """One caller: how it is known, what it may call, and how much."""

    api_keys: tuple[SecretReference, ...] = Field(
        (), description="Where its keys are found: env:NAME or file:PATH."
    )
    models: tuple[ModelPattern, ...] = Field(("*",), description="Names or patterns.")
    rate: RateSpec | None = Field(None, description="Over all models together.")
    latency_class: LatencyClass = "interactive"
    manage: bool = Field(False, description="May load and unload through the gateway.")


class JwtSpec(Spec):
    """Tokens that are accepted. The tenant is one of their claims."""

    issuer: str
    audiences: tuple[str, ...] = ()
    jwks_file: str | None = Field(None, description="The issuer's keys, relative to the fleet file")
    jwks_url: str | None = Field(None, description="… or where they are fetched.")
    tenant_claim: str = "sub"


class TlsSpec(Spec):
    """The gateway's certificate; files that change are read anew."""

    certificate: str = Field(description="PEM with the chain, relative to the fleet file.")
    private_key: str = Field(description="PEM, relative to the fleet file.")
    client_ca: str | None = Field(
        None, description="Clients must show a certificate that one of these signed (mutual TLS)."
    )


class AccessSpec(Spec):
    """Who may call. Where no tenant is declared, everybody may."""

    tls: TlsSpec | None = None
    jwt: JwtSpec | None = None
    tenants: dict[ModelName, TenantSpec] = Field(default_factory=dict)
