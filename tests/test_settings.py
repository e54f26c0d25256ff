"""Which of two settings wins."""

from __future__ import annotations

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
