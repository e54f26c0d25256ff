"""What ``tritonfleet serve`` tells its user before and after the fleet is up."""

from __future__ import annotations

import pytest

from tests.tiny import adder_fleet
from tritonfleet.app import _callers, warnings

TENANTS = "access:\n  tenants:\n" + "".join(
    f"    team-{letter}: {{api_keys: ['env:KEY_{letter}']}}\n" for letter in "abcdefg"
)
TLS = "access: {tls: {certificate: c.pem, private_key: k.pem}}\n"
MUTUAL = "access: {tls: {certificate: c.pem, private_key: k.pem, client_ca: ca.pem}}\n"
TENANTS_AND_TLS = TENANTS + "  tls: {certificate: c.pem, private_key: k.pem}\n"


def spec(tmp_path, extra=""):
    return adder_fleet(tmp_path, {"one": "1MiB"}, extra=extra)


def warned(tmp_path, host, extra=""):
    """The warnings, but for the one about the model that no test builds."""
    made = spec(tmp_path, extra)
    models = {name: model for name, model in made.models.items() if name != "template_"}
    settings = made.settings.model_copy(update={"host": host})
    return list(warnings(made.model_copy(update={"models": models}), settings))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_loopback_there_is_nothing_to_warn_of(tmp_path, host):
    assert warned(tmp_path, host) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "gateway.example"])
def test_an_open_fleet_beyond_loopback_is_warned_of(tmp_path, host):
    open_to_all, unencrypted = warned(tmp_path, host)
    assert f"whoever reaches {host} may call every model" in open_to_all
    assert "tenants" in open_to_all
    assert "tensors travel unencrypted" in unencrypted


@pytest.mark.parametrize(
    ("extra", "warning"),
    [
        (TENANTS, "keys and tensors travel unencrypted"),
        (TLS, "may call every model"),
    ],
)
def test_half_a_lock_is_warned_of(tmp_path, extra, warning):
    (only,) = warned(tmp_path, "0.0.0.0", extra)
    assert warning in only


@pytest.mark.parametrize("extra", [MUTUAL, TENANTS_AND_TLS])
def test_a_locked_fleet_is_not_warned_of(tmp_path, extra):
    assert warned(tmp_path, "0.0.0.0", extra) == []


def test_models_that_are_not_built_are_named(tmp_path):
    made = spec(tmp_path)
    (missing,) = warnings(made, made.settings)
    assert "template_" in missing
    assert "tritonfleet build" in missing


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ("", "everybody who reaches it"),
        (MUTUAL, "everybody who reaches it with a certificate of the client_ca"),
        (TENANTS, "the tenants team-a, team-b, team-c, team-d, team-e and 2 more"),
    ],
)
def test_who_may_call_is_told_in_one_line(tmp_path, extra, text):
    assert _callers(spec(tmp_path, extra)) == text
