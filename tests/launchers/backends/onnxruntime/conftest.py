"""Servers for both backends: what a client may rely on does not depend on which one runs."""

from __future__ import annotations

import psutil
import pytest

from tritonfleet.errors import LauncherUnavailable
from tritonfleet.launchers.native import find_native


@pytest.fixture(params=["native", "python"])
def backend(request):
    """What runs the models; the native one only where it has been built."""
    if request.param == "native":
        try:
            find_native()
        except LauncherUnavailable as error:
            pytest.skip(str(error))
    return request.param


@pytest.fixture
async def server(embedded, backend):
    return await embedded(onnxruntime_backend=backend)


@pytest.fixture
async def client(server, connect):
    return connect(server)


@pytest.fixture
def resident_bytes(server):
    """What tritonserver itself has in memory, its models' processes apart."""

    def measure() -> int:
        return psutil.Process(server.endpoint.pid).memory_info().rss

    return measure
