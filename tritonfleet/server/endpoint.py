"""Where one tritonserver listens, and what its management API wants to see."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Addresses of a running tritonserver as ``host:port``, without a scheme."""

    http: str
    grpc: str
    metrics: str | None = None
    pid: int | None = None
    """Of the tritonserver on this machine; None when it runs elsewhere."""
    admin_key: str | None = None
    """Name of the header that opens the restricted APIs."""
    admin_secret: str | None = field(default=None, repr=False)

    @property
    def admin_http_headers(self) -> dict[str, str]:
        """What an HTTP call to a restricted API must carry."""
        return {self.admin_key: self.admin_secret or ""} if self.admin_key else {}

    @property
    def admin_grpc_headers(self) -> dict[str, str]:
        """What a gRPC call to a restricted protocol must carry."""
        # The prefix is Triton's: docs/customization_guide/inference_protocols.md.
        prefix = "triton-grpc-protocol-"
        return {f"{prefix}{self.admin_key}": self.admin_secret or ""} if self.admin_key else {}
