"""Runs checks, one after the other.

A check that breaks, or hangs, is a finding of its own: it never hides the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tritonfleet.doctor.checks import CHECKS
from tritonfleet.doctor.findings import Finding, Report, warning
from tritonfleet.doctor.machine import Machine
from tritonfleet.doctor.needs import Needs

CHECK_TIMEOUT_S = 90.0
"""Above what the questions of one check may take together."""


@dataclass(frozen=True, slots=True)
class Examination:
    """Which checks are run, on what, and for how long each."""

    needs: Needs
    machine: Machine
    timeout_s: float = CHECK_TIMEOUT_S

    def reports(
        self, names: Iterable[str], started: Callable[[str], None] = lambda name: None
    ) -> Iterator[Report]:
        """What each check found, in turn; ``started`` is told which is next."""
        for name in names:
            started(name)
            yield Report(name, tuple(self._findings(name)))

    def _findings(self, name: str) -> list[Finding]:
        answers: list[list[Finding]] = []
        # A thread that hangs in the kernel can only be left behind.
        thread = threading.Thread(target=lambda: answers.append(self._guarded(name)), daemon=True)
        thread.start()
        thread.join(self.timeout_s)
        if answers:
            return answers[0]
        return [warning(f"no answer within {self.timeout_s:g} s: this is not known")]

    def _guarded(self, name: str) -> list[Finding]:
        try:
            return CHECKS[name](self.needs, self.machine)
        except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
            return [warning(f"could not be found out: {type(error).__name__}: {error}")]
