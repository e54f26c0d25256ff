"""All that one part of the bench has found, and its plain form for programs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fleet_perf.gateway.churn import ChurnFindings
from fleet_perf.gateway.cold import ColdFindings
from fleet_perf.gateway.config_scale import ScaleFindings
from fleet_perf.gateway.faults import FaultFindings
from fleet_perf.gateway.warm import WarmFindings

FORMAT = 1
"""Of the JSON; raised when a field changes its meaning or its place."""

Findings = WarmFindings | ColdFindings | ChurnFindings | FaultFindings | ScaleFindings


@dataclass(slots=True)
class GatewayResults:
    """One part: what was found, and where."""

    part: str
    environment: dict[str, Any]
    findings: Findings
    quick: bool = False

    @property
    def good(self) -> bool:
        """Everything was measured, and no target was missed."""
        findings = self.findings
        return not findings.failed and all(target.kept for target in findings.targets)

    def as_json(self) -> dict[str, Any]:
        """Plain data, figures unrounded."""
        return {
            "format": FORMAT,
            "name": f"gateway-{self.part}",
            "quick": self.quick,
            "good": self.good,
            "environment": self.environment,
            "targets": [
                {**dataclasses.asdict(target), "kept": target.kept}
                for target in self.findings.targets
            ],
            **self._found(),
        }

    def _found(self) -> dict[str, Any]:
        fields = dataclasses.fields(self.findings)
        values = {field.name: getattr(self.findings, field.name) for field in fields}
        values.pop("targets", None)  # told already, with whether they are kept
        failed = [str(error) for error in values.pop("failed")]
        plain = {name: [dataclasses.asdict(one) for one in found] for name, found in values.items()}
        return {**plain, "failed": failed}
