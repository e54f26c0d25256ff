"""What a check found: how bad it is, in which words, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warning", "failed", "not needed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about the machine; advice where it is not as it should be."""

    status: Status
    found: str
    advice: tuple[str, ...] = ()
    """Steps in their order; commands as they are typed."""


def ok(found: str) -> Finding:
    """As it should be."""
    return Finding("ok", found)


def warning(found: str, *advice: str) -> Finding:
    """The fleet starts, and its user may yet be surprised."""
    return Finding("warning", found, advice)


def failed(found: str, *advice: str) -> Finding:
    """The fleet, or one of its servers, will not start."""
    return Finding("failed", found, advice)


def not_needed(found: str) -> Finding:
    """Nothing of this fleet asks for it."""
    return Finding("not needed", found)


@dataclass(frozen=True, slots=True)
class Report:
    """All that one check found."""

    check: str
    findings: tuple[Finding, ...]

    def as_json(self) -> list[dict[str, Any]]:
        """For scripts: one object for each finding."""
        return [
            {"check": self.check, **asdict(finding), "advice": list(finding.advice)}
            for finding in self.findings
        ]


def healthy(reports: Iterable[Report]) -> bool:
    """Whether nothing failed."""
    return not any(finding.status == "failed" for report in reports for finding in report.findings)
