"""Errors as HTTP answers."""

from __future__ import annotations

import json

import pytest

from tritonfleet import errors
from tritonfleet.gateway.problems import http_status, problem, retry_after_s


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ModelNotFound("m"), 404),
        (errors.PinRefused("m", "pinned"), 409),
        (errors.ModelTooLarge("m", 2, 1), 507),
        (errors.FleetSaturated("m", 1.0, 2.0), 503),
        (errors.LoadFailed("m", "corrupt", 5.0), 503),
        (errors.ServerUnreachable("s", "a"), 502),
        (errors.ServerTimeout("s", "infer", 1.0), 504),
        (errors.InvalidSpec("f", ()), 400),
        (errors.PortTaken("h", 1, "x"), 500),
    ],
)
def test_every_kind_has_its_status(error, status):
    assert http_status(error) == status


def test_an_answer_has_tritons_form_and_says_when_to_come_back():
    answer = problem(errors.FleetSaturated("m", 1.0, 2.3))
    assert json.loads(answer.body)["error"].startswith("m could not be had within 1.0 s")
    assert answer.headers["Retry-After"] == "3"


def test_what_never_gets_better_has_no_retry():
    assert retry_after_s(errors.ModelNotFound("m")) is None
