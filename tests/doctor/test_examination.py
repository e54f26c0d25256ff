"""Checks that break, or hang, hide no other."""

from __future__ import annotations

import threading

import pytest

from tests.doctor.builders import embedded, needs, statuses
from tritonfleet.doctor import checks
from tritonfleet.doctor.examination import Examination
from tritonfleet.doctor.findings import Report, failed, healthy, not_needed, ok, warning
from tritonfleet.doctor.machine import Machine


def break_down(needs, machine):
    raise RuntimeError("a file of another form")


@pytest.fixture
def released():
    event = threading.Event()
    yield event
    event.set()


def test_a_broken_check_is_a_finding_and_the_others_go_on(monkeypatch):
    monkeypatch.setitem(checks.CHECKS, "driver", break_down)
    monkeypatch.setitem(checks.CHECKS, "mig", lambda needs, machine: [ok("fine")])
    broken, fine = Examination(needs(embedded()), Machine()).reports(["driver", "mig"])
    assert statuses(broken.findings) == ["warning"]
    assert "RuntimeError: a file of another form" in broken.findings[0].found
    assert statuses(fine.findings) == ["ok"]


def test_a_check_that_hangs_is_left_behind(monkeypatch, released):
    monkeypatch.setitem(checks.CHECKS, "driver", lambda needs, machine: released.wait() and [])
    monkeypatch.setitem(checks.CHECKS, "mig", lambda needs, machine: [ok("fine")])
    examination = Examination(needs(embedded()), Machine(), timeout_s=0.01)
    hung, _ = examination.reports(["driver", "mig"])
    assert statuses(hung.findings) == ["warning"]
    assert "no answer within" in hung.findings[0].found


def test_whoever_waits_is_told_what_is_looked_at(monkeypatch):
    monkeypatch.setitem(checks.CHECKS, "driver", lambda needs, machine: [ok("fine")])
    told = []
    list(Examination(needs(embedded()), Machine()).reports(["driver"], told.append))
    assert told == ["driver"]


def test_only_failures_make_a_machine_unfit():
    fine = Report("driver", (ok("a"), warning("b", "do"), not_needed("c")))
    assert healthy([fine])
    assert not healthy([fine, Report("ports", (failed("d", "do"),))])
