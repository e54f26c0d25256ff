"""What Envoy's configuration is generated from: facts and wishes, no Envoy.

Two kinds of change are told apart. *Residency* (which model is on which server, the share of a
canary, mirroring) changes many times a minute and is one small file. The *plan* (models, limits,
addresses, access) changes seldom, and with it the large files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tritonfleet.spec.traffic import LatencyClass, LimitsSpec, RateSpec

MODEL_HEADER = "x-tritonfleet-model"
"""The model of a gRPC request, as Envoy has read it from the message."""
PROTOCOL_HEADER = "x-tritonfleet-protocol"
"""'grpc' on what came in at the port of gRPC: its path could be written by anyone at the other."""
TENANT_HEADER = "x-tritonfleet-tenant"
"""Who calls, once that is proved. Envoy removes it from whatever comes in."""
CLASS_HEADER = "tritonfleet-class"
"""'interactive' or 'batch', as the caller says of itself."""
ABSENT_HEADER = "x-tritonfleet-absent"
"""Marks an answer in which Triton says that it does not hold the model, and so has run nothing."""
OVERLOADED_HEADER = "x-tritonfleet-overloaded"
"""Marks an answer of Envoy's own: the model is at its limits. Nothing has been run."""
MIRROR_HEADER = "x-tritonfleet-mirrored"
"""Marks a copy of a request, whose answer nobody sees."""
RESIDENCY_HEADER = "tritonfleet-residency"
"""'warm' if the model was in memory when the request came, else 'cold'."""
WAIT_HEADER = "tritonfleet-wait-ms"
"""How long the request waited for its model."""
FALLBACK_HEADER = "tritonfleet-fallback"
"""The model that answered in place of the one that was asked for."""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One tritonserver, as ``host:port``."""

    name: str
    http: str
    grpc: str


@dataclass(frozen=True, slots=True)
class Split:
    """Which versions the requests that name none go to, while two of them are in memory."""

    stable: int | None = None
    """None: whatever Triton chooses, which is the highest."""
    canary: int | None = None
    """Gets the share that residency says."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One model, as the gateway treats it."""

    name: str
    limits: LimitsSpec = field(default_factory=LimitsSpec)
    latency_class: LatencyClass = "interactive"
    has_fallback: bool = False
    """Whether another model may answer: what is refused or absent then goes to the activator."""
    mirrored: bool = False
    split: Split | None = None
    tenants: tuple[str, ...] | None = None
    """Who may call it; None for everybody whom the gateway lets in."""


@dataclass(frozen=True, slots=True)
class Credential:
    """An API key and whose it is."""

    tenant: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Jwt:
    """Tokens that are accepted."""

    issuer: str
    audiences: tuple[str, ...]
    tenant_claim: str
    jwks: str | None = None
    """The keys themselves, as JSON."""
    jwks_url: str | None = None
    jwks_ca: Path | None = None
    """Who must have signed the certificate of ``jwks_url``."""


@dataclass(frozen=True, slots=True)
class Tls:
    """The gateway's certificate. A renewed one is another text, and thereby another plan."""

    certificate: str
    """PEM with the chain; no key among it."""
    private_key: Path
    """Absolute. What it holds is Envoy's to read, and is in no other file."""
    client_ca: str | None = None
    """PEM of those whose signature clients must show."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come in. Without tenants, everybody."""

    tls: Tls | None = None
    jwt: Jwt | None = None
    tenants: tuple[str, ...] = ()
    batch_tenants: tuple[str, ...] = ()
    credentials: tuple[Credential, ...] = ()
    rates: Mapping[str, RateSpec] = field(default_factory=dict)
    """By tenant."""


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """All that changes seldom."""

    folder: Path
    """Of the generated files and sockets; short enough for a Unix socket's path."""
    host: str
    http_port: int
    grpc_port: int
    servers: tuple[ServerAddress, ...]
    models: tuple[ModelPlan, ...]
    access: Access = Access()
    max_request_bytes: int = 64 * 2**20
    concurrency: int = 2
    access_log: Path | None = None
    only_notable: bool = False
    """Of the access log: errors, cold starts and refusals only."""

    @property
    def activator_http(self) -> Path:
        """The socket on which the activator takes HTTP."""
        return self.folder / "activator-http.sock"

    @property
    def activator_grpc(self) -> Path:
        """The socket on which the activator takes gRPC."""
        return self.folder / "activator-grpc.sock"

    @property
    def admin(self) -> Path:
        """The socket of Envoy's admin interface."""
        return self.folder / "admin.sock"

    @property
    def bootstrap(self) -> Path:
        """What Envoy is started with; it names the other files."""
        return self.folder / "bootstrap.json"


@dataclass(frozen=True, slots=True)
class Residency:
    """All that changes often."""

    generation: int = 0
    """Grows with each change: what Envoy reports when it is in force."""
    on: Mapping[str, str] = field(default_factory=dict)
    """The server of each model that may be reached directly."""
    canary_percent: Mapping[str, float] = field(default_factory=dict)
    mirror_percent: Mapping[str, float] = field(default_factory=dict)
