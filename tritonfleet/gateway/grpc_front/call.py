"""Who calls, how long it waits, and what it is told beside the answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tritonfleet.errors import InvalidRequest
from tritonfleet.gateway.asking import ATTEMPT_HEADER, STRICT_HEADER
from tritonfleet.gateway.deadlines import TIMEOUT_HEADER, header_deadline_s, least
from tritonfleet.gateway.desk import Admission, Asked
from tritonfleet.gateway.envoy.plan import (
    CLASS_HEADER,
    FALLBACK_HEADER,
    MIRROR_HEADER,
    RESIDENCY_HEADER,
    TENANT_HEADER,
    WAIT_HEADER,
)
from tritonfleet.gateway.grpc_front.messages import Head
from tritonfleet.spec.traffic import LatencyClass

Metadata = tuple[tuple[str, "str | bytes"], ...]
# These belong to one connection, or to the gateway itself.
_OWN = ("grpc-", "x-envoy-", "x-tritonfleet-", ":")
_OF_CONNECTION = frozenset(
    {"te", "content-type", "content-length", "user-agent", "host", "connection"}
)
_CLASSES: dict[str, LatencyClass] = {"interactive": "interactive", "batch": "batch"}


@dataclass(slots=True)
class Call:
    """One call of a client, without its messages."""

    metadata: Metadata
    remaining_s: float | None = None
    """Until the client's own deadline; None for as long as it takes."""
    told: dict[str, str] = field(default_factory=dict)
    """Goes out in front of the answer."""
    trailing: Metadata = ()
    """Goes out behind it."""

    @classmethod
    def of(cls, context: Any) -> Call:
        """The call that a handler is in."""
        metadata = tuple((key, value) for key, value in context.invocation_metadata() or ())
        return cls(metadata, context.time_remaining())

    @property
    def tenant(self) -> str | None:
        """The caller, as Envoy has proved it."""
        return self._header(TENANT_HEADER)

    @property
    def is_strict(self) -> bool:
        """Whether only a model in memory counts as ready."""
        return (self._header(STRICT_HEADER) or "").lower() in ("true", "1")

    @property
    def passed_on(self) -> Metadata:
        """What of the metadata is meant for Triton."""
        return passed_on(self.metadata)

    def asked(self, head: Head, size_bytes: int = 0) -> Asked:
        """What the desk must know of a request of this call."""
        said_s = header_deadline_s(self._header(TIMEOUT_HEADER))
        attempt = self._header(ATTEMPT_HEADER) or ""
        return Asked(
            model=head.model,
            version=head.version,
            tenant=self.tenant,
            latency_class=self._latency_class(),
            deadline_s=least(self.remaining_s, said_s, head.timeout_s),
            size_bytes=size_bytes,
            mirrored=self._header(MIRROR_HEADER) is not None,
            overloaded=attempt.isdecimal() and int(attempt[:9]) > 1,
        )

    def tell(self, admission: Admission) -> None:
        """Notes for the client what its request has met."""
        self.tell_residency(cold=admission.cold)
        self.told[WAIT_HEADER] = f"{admission.waited_s * 1000:.1f}"
        if admission.fallback is not None:
            self.told[FALLBACK_HEADER] = admission.fallback

    def tell_residency(self, *, cold: bool) -> None:
        """Notes for the client whether its model was in memory."""
        self.told[RESIDENCY_HEADER] = "cold" if cold else "warm"

    def _latency_class(self) -> LatencyClass | None:
        text = self._header(CLASS_HEADER)
        if text is not None and text not in _CLASSES:
            raise InvalidRequest(CLASS_HEADER, f"{text[:40]!r} is not 'interactive' or 'batch'")
        return _CLASSES[text] if text is not None else None

    def _header(self, name: str) -> str | None:
        return next((str(value) for key, value in self.metadata if key == name), None)


def passed_on(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """Metadata without what belongs to one connection."""
    return tuple(
        (key, value)
        for key, value in metadata or ()
        if key not in _OF_CONNECTION and not key.startswith(_OWN)
    )
