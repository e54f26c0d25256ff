"""An Envoy from an image, on a real engine: what the container may, and that it never stays."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from tests.gateway.envoy.bare import write_bootstrap
from tests.gateway.envoy.test_process import get
from tests.launchers.processes import eventually, gone
from tritonfleet.errors import EnvoyMissing
from tritonfleet.gateway.envoy.program import container_name, find_program

pytestmark = [pytest.mark.envoy, pytest.mark.docker]


@pytest.fixture
async def program(envoy_image, bystander):
    return await find_program(f"image:{envoy_image}")


def containers(engine, folder):
    return engine.client.containers.list(all=True, filters={"name": container_name(folder)})


async def test_it_runs_as_ourselves_with_no_privileges(start, folder, engine):
    write_bootstrap(folder)
    envoy = await start()
    (container,) = containers(engine, folder)
    host = container.attrs["HostConfig"]
    assert container.attrs["Config"]["User"] == f"{os.getuid()}:{os.getgid()}"
    assert not host["Privileged"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert host["CapDrop"] == ["ALL"]
    assert host["ReadonlyRootfs"]
    assert [await get(port) for port in envoy.ports.values()] == [(200, "")] * 2


async def test_a_stopped_one_leaves_no_container(start, folder, engine):
    write_bootstrap(folder)
    envoy = await start()
    assert len(containers(engine, folder)) == 1
    await envoy.stop(30)
    assert containers(engine, folder) == []


async def test_a_container_that_is_killed_is_told_and_has_a_successor(start, folder, engine):
    write_bootstrap(folder)
    envoy = await start()
    containers(engine, folder)[0].kill()
    assert await envoy.wait() == -signal.SIGKILL
    assert (await get((await start()).ports["http"]))[0] == 200
    assert len(containers(engine, folder)) == 1


async def test_a_client_that_is_killed_does_not_keep_the_successor_from_its_place(
    start, folder, engine
):
    write_bootstrap(folder)
    envoy = await start()
    os.kill(envoy.pid, signal.SIGKILL)  # of the client; its container runs on
    await envoy.wait()
    (former,) = containers(engine, folder)
    assert (await get((await start()).ports["http"]))[0] == 200
    assert [container.id for container in containers(engine, folder)] != [former.id]


PARENT = """
import asyncio, sys
from pathlib import Path
from tritonfleet.gateway.envoy.process import EnvoyOptions, EnvoyProcess
from tritonfleet.gateway.envoy.program import find_program

async def main():
    folder, state_dir, image = sys.argv[1:]
    ports = {"http": 0, "grpc": 0}
    program = await find_program(f"image:{image}")
    envoy = await EnvoyProcess.start(
        EnvoyOptions(program, Path(folder), Path(state_dir), "127.0.0.1", ports)
    )
    print(envoy.pid, flush=True)
    await envoy.wait()

asyncio.run(main())
"""


async def test_a_killed_fleet_leaves_no_container(folder, tmp_path, engine, envoy_image, bystander):
    write_bootstrap(folder)
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(folder), str(tmp_path), envoy_image),
        stdout=asyncio.subprocess.PIPE,
    )
    client = int(await parent.stdout.readline())
    assert len(containers(engine, folder)) == 1
    parent.kill()
    await parent.wait()
    assert gone([client])
    assert await eventually(lambda: containers(engine, folder) == [])


async def test_an_image_that_is_not_there_is_told(engine):
    with pytest.raises(EnvoyMissing, match=r"(?s)no-such-image.*Name another with --envoy"):
        await find_program("image:tritonfleet-test/no-such-image:1")


async def test_an_image_without_envoy_is_told(cpu_image):
    with pytest.raises(EnvoyMissing, match=r"envoy.*executable file not found"):
        await find_program(f"image:{cpu_image}")
