"""Errors as HTTP answers."""

from __future__ import annotations

import json

import pytest

from tritonfleet import errors
from tritonfleet.gateway.problems import grpc_code, http_status, problem, retry_after_s


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.ModelNotFound("m"), 404, "NOT_FOUND"),
        (errors.VersionNotFound("m", "3"), 404, "NOT_FOUND"),
        (errors.NotAllowed("team", "call m"), 403, "PERMISSION_DENIED"),
        (errors.PinRefused("m", "pinned"), 409, "FAILED_PRECONDITION"),
        (errors.RolloutRefused("m", "no version is on trial"), 409, "FAILED_PRECONDITION"),
        (errors.SharedMemoryRefused("it is elsewhere"), 409, "FAILED_PRECONDITION"),
        (errors.ModelTooLarge("m", 2, 1), 507, "FAILED_PRECONDITION"),
        (errors.QueueFull("m", "8 wait"), 429, "RESOURCE_EXHAUSTED"),
        (errors.TooMuchHeld("m", 2, 1), 503, "RESOURCE_EXHAUSTED"),
        (errors.DeadlineExceeded("m", 1.0), 504, "DEADLINE_EXCEEDED"),
        (errors.FleetSaturated("m", 1.0, 2.0), 503, "UNAVAILABLE"),
        (errors.LoadFailed("m", "corrupt", 5.0), 503, "UNAVAILABLE"),
        (errors.ServerUnreachable("s", "a"), 502, "UNAVAILABLE"),
        (errors.ServerTimeout("s", "infer", 1.0), 504, "DEADLINE_EXCEEDED"),
        (errors.InvalidSpec("f", ()), 400, "INVALID_ARGUMENT"),
        (errors.PortTaken("h", 1, "x"), 500, "INTERNAL"),
    ],
)
def test_every_kind_has_its_status_and_its_code(error, status, code):
    assert http_status(error) == status
    assert grpc_code(error).name == code


def test_an_answer_has_tritons_form_and_says_when_to_come_back():
    answer = problem(errors.FleetSaturated("m", 1.0, 2.3))
    assert json.loads(answer.body)["error"].startswith("m could not be had within 1.0 s")
    assert answer.headers["Retry-After"] == "3"


def test_what_never_gets_better_has_no_retry():
    assert retry_after_s(errors.ModelNotFound("m")) is None
