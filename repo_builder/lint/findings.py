"""What a rule is, what it finds, and what the linter is told about the server to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""Worst first: a server refuses or answers wrongly; it hurts; good to know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake: which rule it breaks, where, what is wrong and what to write instead."""

    rule: str
    severity: Severity
    message: str
    fix: str
    place: str = ""
    """File and field in the model's folder."""
    model: str = ""
    """Empty for what concerns the repository as a whole."""

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of mistake, with a stable name to choose or to silence it by."""

    id: str
    severity: Severity
    what: str
    """What it finds, in a few words; docs/lint.md tells why."""

    def found(self, message: str, fix: str, place: str = "") -> Finding:
        """A finding of this rule; the linter adds the model."""
        return Finding(self.id, self.severity, message, fix, place)


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of the server that will read the repository; None or empty is unknown."""

    gpus: int | None = None
    resources: Mapping[str, int] = field(default_factory=dict)
    """Copies of each rate limiter resource, as given by --rate-limit-resource."""
    triton_release: str | None = None
    """Such as '24.10'."""
    tensorrt: str | None = None
    """TensorRT's version."""
    compute_capability: str | None = None
    """Of its GPUs, such as '9.0'."""
