from __future__ import annotations

import contextlib
import os
import shutil

import pytest

from tests.launchers.contract.ground import Ground
from tritonfleet.launchers.native import choose_backend
from tritonfleet.spec.containers import ContainerSpec

docker = pytest.mark.docker
podman = (docker, pytest.mark.skipif(not shutil.which("podman"), reason="Podman is not installed"))
BRIDGE = "bridge"
"""The usual network of either engine."""
NETWORKS = [pytest.param("docker-ports", marks=docker), pytest.param("podman-ports", marks=podman)]
NATIVE = choose_backend("auto", os.environ)
GROUNDS = [
    # With the backend that images have; the python-based one is test_embedded.py's.
    pytest.param("embedded", marks=pytest.mark.skipif(not NATIVE.native, reason=str(NATIVE))),
    pytest.param("docker", marks=docker),
    pytest.param("podman", marks=podman),
]


@pytest.fixture(params=GROUNDS)
async def ground(request, tmp_path, repository):
    """A launcher as it is used by default; containers are in the network of this machine."""
    async with made(request, tmp_path, repository) as ground:
        yield ground


@pytest.fixture(params=GROUNDS + NETWORKS)
async def any_network(request, tmp_path, repository):
    """A launcher in each of its ways; ``docker-ports`` is Docker with published ports."""
    async with made(request, tmp_path, repository) as ground:
        yield ground


@contextlib.asynccontextmanager
async def made(request, folder, repository):
    name, _, network = request.param.partition("-")
    ground = Ground("embedded", repository, folder / "state")
    if name != "embedded":
        ground = contained(request, name, network, ground)
    yield ground
    await ground.sweep()
    assert await ground.is_clean(), ground.leftovers()


def contained(request, name, network, ground):
    engine = request.getfixturevalue({"docker": "engine", "podman": "podman"}[name])
    image = request.getfixturevalue("cpu_image")
    request.getfixturevalue("bystander")
    if network and not engine.has_network(BRIDGE):
        pytest.skip("this engine has no network of its own")
    ground.launcher_name, ground.engine = "container", engine
    ground.container = ContainerSpec(
        image=image,
        engine=engine.address,
        pull="never",
        network=BRIDGE if network else "host",
    )
    return ground
