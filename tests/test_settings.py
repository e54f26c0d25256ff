"""Which of two settings wins."""

from __future__ import annotations

import pytest

from tritonfleet.errors import InvalidSpec
from tritonfleet.settings import Settings, resolve_settings


def test_flag_beats_environment_beats_file_beats_default(monkeypatch):
    monkeypatch.setenv("TRITONFLEET_HTTP_PORT", "8100")
    monkeypatch.setenv("TRITONFLEET_PATIENCE_S", "7")
    from_file = Settings(http_port=8200, patience_s=5, queue_timeout_s=9)
    settings = resolve_settings(from_file, {"http_port": 8300, "host": None})
    assert settings.http_port == 8300
    assert settings.patience_s == 7
    assert settings.queue_timeout_s == 9
    assert settings.host == "127.0.0.1"


def test_variables_of_others_are_left_alone(monkeypatch):
    monkeypatch.setenv("TRITONFLEET_FLEET", "x.yaml")
    assert resolve_settings(Settings()).http_port == 8000


def test_attached_servers_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("TRITONFLEET_ATTACH", '{"gpu0": "a:1,a:2"}')
    assert resolve_settings(Settings()).attach == {"gpu0": "a:1,a:2"}


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("TRITONFLEET_ATTACH", "{bad", "TRITONFLEET_ATTACH: is not JSON"),
        ("TRITONFLEET_ATTACH", '["a"]', "TRITONFLEET_ATTACH: Input should be a valid dictionary"),
        ("TRITONFLEET_HTTP_PORT", "x", "TRITONFLEET_HTTP_PORT: Input should be a valid integer"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(monkeypatch, variable, value, problem):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSpec, match=problem):
        resolve_settings(Settings())


def test_a_flag_that_cannot_be_is_named():
    with pytest.raises(InvalidSpec, match="--triton-release: String should match"):
        resolve_settings(Settings(), {"triton_release": "5"})


def test_a_secret_in_place_of_its_reference_is_not_shown(monkeypatch):
    monkeypatch.setenv("TRITONFLEET_ADMIN_SECRET", "sesame")
    with pytest.raises(InvalidSpec, match="TRITONFLEET_ADMIN_SECRET") as caught:
        resolve_settings(Settings())
    assert "sesame" not in str(caught.value)
