from __future__ import annotations

import pytest

from tritonfleet.gateway.envoy import files
from tritonfleet.gateway.envoy.process import EnvoyOptions, EnvoyProcess
from tritonfleet.gateway.envoy.program import find_program

NONE = {"http": 0, "grpc": 0}


@pytest.fixture(params=["packaged", pytest.param("image", marks=pytest.mark.docker)])
async def program(request):
    """Whichever way Envoy runs, it lives and dies the same."""
    if request.param == "packaged":
        return await find_program()
    return await find_program(f"image:{request.getfixturevalue('envoy_image')}")


@pytest.fixture
def folder(tmp_path):
    folder = files.run_folder(tmp_path)
    yield folder
    files.remove(folder)


@pytest.fixture
async def start(program, folder, tmp_path):
    running = []

    async def start(ports=NONE, **changes) -> EnvoyProcess:
        options = {"program": program, "host": "127.0.0.1", "ports": ports, "concurrency": 1}
        given = {"folder": folder, "state_dir": tmp_path, **options, **changes}
        running.append(await EnvoyProcess.start(EnvoyOptions(**given)))
        return running[-1]

    yield start
    for envoy in running:
        await envoy.stop(0)
