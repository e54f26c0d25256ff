"""What tests of several packages share."""

from __future__ import annotations

import pytest

from tritonfleet.server.events import ModelEvents

pytest_plugins = ["tests.engine", "tests.demo"]


@pytest.fixture
async def events(tmp_path):
    """A socket on which models tell of themselves; ``tests.server.telling`` sends to it."""
    events = await ModelEvents.listen(tmp_path / "events")
    yield events
    events.close()
