"""What the tests of several commands share."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Commands run in an empty folder, with no settings from outside."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    for name in ("TRITONFLEET_FLEET", "TRITONFLEET_REPOSITORY", "TRITONFLEET_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)
