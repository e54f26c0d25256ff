"""What may go wrong with containers only: engines, images, rights, limits, and other people's."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from tritonclient.utils import InferenceServerException

from tests.launchers.contract.ground import Ground, instance
from tests.launchers.contract.models import DOUBLED, X, publish_weighty
from tests.launchers.contract.test_ending import Parent
from tests.launchers.contract.test_starting import page
from tests.launchers.onnx_models import publish_doubler
from tests.launchers.processes import eventually, gone
from tritonfleet.errors import (
    ContainerFailed,
    EngineUnavailable,
    ImageMissing,
    LaunchError,
    PortTaken,
)
from tritonfleet.spec.containers import ContainerPorts, ContainerSpec

pytestmark = [pytest.mark.triton, pytest.mark.docker]
GIB = 2**30
MIB = 2**20


@pytest.fixture
async def docker(engine, cpu_image, bystander, tmp_path, repository):
    """Servers in containers of this machine's engine."""
    container = ContainerSpec(image=cpu_image, pull="never")
    ground = Ground("container", repository, tmp_path / "state", container, engine)
    yield ground
    await ground.sweep()
    assert await ground.is_clean(), ground.leftovers()


def inspect(ground):
    (name,) = ground.engine.containers_of(ground.repository)
    return ground.engine.client.containers.get(name)


# -- what a container may --------------------------------------------------------------------


async def test_it_has_no_privileges_and_writes_nowhere(docker):
    await docker.start()
    attributes = inspect(docker).attrs
    host = attributes["HostConfig"]
    assert attributes["Config"]["User"] == (
        f"{os.getuid()}:{os.getgid()}" if os.getuid() else "1000:1000"
    )
    assert (host["Privileged"], host["CapDrop"]) == (False, ["ALL"])
    assert "no-new-privileges" in host["SecurityOpt"]
    assert host["ReadonlyRootfs"]
    assert not any(mount["RW"] for mount in attributes["Mounts"])
    assert host["RestartPolicy"]["Name"] in ("", "no")


async def test_it_gets_what_the_fleet_file_says(docker):
    await docker.start(memory=GIB, cpus=0.5, pids_limit=300, shm_size=256 * MIB)
    host = inspect(docker).attrs["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (GIB, GIB, 5 * 10**8)
    assert (host["PidsLimit"], host["ShmSize"]) == (300, 256 * MIB)


async def test_it_is_healthy_to_the_engine_as_well(docker):
    await docker.start()

    container = inspect(docker)
    test = container.attrs["Config"]["Healthcheck"]["Test"]
    probe = container.exec_run(["sh", "-c", test[-1]] if test[0] == "CMD-SHELL" else test[1:])
    assert probe.exit_code == 0, probe.output
    assert container.attrs["State"]["Health"]["Status"] in ("starting", "healthy")


async def test_its_name_and_labels_tell_whose_it_is(docker):
    server = await docker.start()
    container = inspect(docker)
    assert container.name.startswith("tritonfleet-gpu0-")
    assert container.labels["io.tritonfleet.managed"] == "true"
    assert container.labels["io.tritonfleet.server"] == "gpu0"
    assert container.labels["io.tritonfleet.instance"] == instance(server)


async def test_its_secret_is_not_among_labels_or_variables(docker):
    server = await docker.start()
    attributes = inspect(docker).attrs
    for place in ("Labels", "Env"):
        assert server.endpoint.admin_secret not in json.dumps(attributes["Config"][place])


# -- images ----------------------------------------------------------------------------------


def image(ground, name, **changes):
    """The ground's containers, of another image."""
    return ground.container.model_copy(update={"image": name, **changes})


async def test_an_image_that_is_not_there_is_told_with_the_next_step(docker):
    with pytest.raises(ImageMissing, match="no image tritonfleet-test/none:1") as caught:
        await docker.start(container=image(docker, "tritonfleet-test/none:1"))
    assert "pull" in str(caught.value)
    assert docker.leftovers() == []


async def test_an_image_that_cannot_be_fetched_is_told_with_the_engines_words(docker):
    with pytest.raises(ImageMissing, match=r"no image localhost:9/none:1: .*(refused|connect)"):
        await docker.start(container=image(docker, "localhost:9/none:1", pull="missing"))
    assert docker.leftovers() == []


@pytest.fixture
def empty_image(engine):
    """An image with a program that does nothing, and no tritonserver."""
    name = f"tritonfleet-test/empty:{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "readme").write_text("nothing")
        archive = shutil.make_archive(f"{folder}-image", "tar", folder)
    with Path(archive).open("rb") as content:
        engine.client.api.import_image_from_data(
            content.read(), repository=name.split(":")[0], tag=name.split(":")[1]
        )
    Path(archive).unlink()
    yield name
    engine.client.images.remove(name, force=True)


async def test_an_image_without_a_tritonserver_is_told(docker, empty_image):
    with pytest.raises(LaunchError, match="tritonserver") as caught:
        await docker.start(container=image(docker, empty_image))
    assert "gpu0" in str(caught.value)
    assert await docker.is_clean()


# -- engines ---------------------------------------------------------------------------------


async def test_a_missing_engine_is_told_with_the_next_step(docker, tmp_path):
    with pytest.raises(EngineUnavailable, match=r"nowhere\.sock") as caught:
        await docker.start(engine=f"unix://{tmp_path}/nowhere.sock")
    assert "start" in str(caught.value).lower()
    assert docker.leftovers() == []


async def test_an_engine_that_never_answers_is_given_up(docker):
    with (
        tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX) as mute,
    ):
        mute.bind(f"{folder}/mute.sock")
        mute.listen()
        with pytest.raises(EngineUnavailable, match=r"mute\.sock"):
            await docker.start(engine=f"unix://{folder}/mute.sock")


STRANGER = """
import asyncio, os, sys
from pathlib import Path
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.container import ContainerLauncher
from tritonfleet.spec.containers import ContainerSpec

async def nothing():
    await asyncio.to_thread(int)

asyncio.run(nothing())  # what is imported late must be there before the rights are gone
import tritonfleet.launchers.engine.client, tritonfleet.launchers.container.recipe, docker
repository, state, image, user = sys.argv[1:]
os.setgroups([])
os.setgid(int(user))
os.setuid(int(user))
container = ContainerSpec(image=image, pull="never")
options = LaunchOptions("gpu0", Path(repository), Path(state), container=container)
asyncio.run(ContainerLauncher().start(options))
"""


@pytest.fixture
def open_folder():
    """A folder that everybody may enter and write to, with an empty repository."""
    with tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        Path(folder, "repository").mkdir()
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without rights")
async def test_a_user_without_rights_to_the_socket_is_told_what_to_do(docker, open_folder):
    arguments = (
        *(str(open_folder / "repository"), str(open_folder / "state")),
        *(docker.container.image, "65534"),
    )
    stranger = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STRANGER, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await stranger.communicate())[0].decode()
    assert stranger.returncode == 1
    assert "EngineUnavailable" in said
    assert "docker.sock" in said
    assert "usermod -aG docker" in said


# -- rights and limits -----------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="our own user can read what it has written")
async def test_a_repository_that_its_user_cannot_read_is_told(docker):
    publish_doubler(docker.repository)
    (docker.repository / "double" / "1" / "model.onnx").chmod(0o600)
    with pytest.raises(ContainerFailed, match=r"1000:1000 cannot read .*model\.onnx") as caught:
        await docker.start()
    assert "chmod -R o+rX" in str(caught.value)
    assert "tritonfleet-gpu0-" in str(caught.value)
    assert docker.leftovers() == []


async def test_a_server_that_outgrows_its_memory_is_ended_and_says_so(docker, connect):
    publish_weighty(docker.repository, "weighty", 600)
    server = await docker.start(memory=400 * MIB)
    with pytest.raises(InferenceServerException):
        await connect(server).load("weighty")
    assert await server.wait() == -signal.SIGKILL
    assert "memory" in server.log_tail()
    assert await docker.is_clean()


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"network": "no-such-network"}, "no-such-network"),
        ({"gpus": ("0",)}, "(?i)nvidia"),
        ({"cpuset": "4000"}, "4000"),
        ({"mounts": {"/no/such/folder": "/data"}}, "/no/such/folder"),
    ],
)
async def test_a_wish_that_this_machine_cannot_grant_is_told(docker, wish, said):
    with pytest.raises(LaunchError, match=said) as caught:
        await docker.start(**wish)
    assert "gpu0" in str(caught.value)
    assert await docker.is_clean()


@pytest.mark.parametrize("network", ["host", "bridge"])
async def test_a_fixed_port_that_is_taken_is_told_with_its_setting(docker, network):
    if not docker.engine.has_network(network):
        pytest.skip("this engine has no network of its own")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {port} .*container.ports"):
            await docker.start(network=network, ports=ContainerPorts(grpc=port))
    assert await docker.is_clean()


# -- other people's --------------------------------------------------------------------------


async def test_a_container_of_somebody_else_is_left_alone_even_under_our_name(docker):
    server = await docker.start()
    name = inspect(docker).name
    await server.stop(60)
    theirs = docker.engine.client.containers.create(
        docker.container.image, name=name, labels={"io.tritonfleet.server": "gpu0"}
    )
    try:
        with pytest.raises(ContainerFailed, match=name) as caught:
            await docker.start()
        assert "docker r" in str(caught.value)  # rename, or rm
        theirs.reload()
        assert theirs.status == "created"
    finally:
        theirs.remove()


async def test_another_fleet_with_a_server_of_the_same_name_is_left_alone(docker, tmp_path):
    first = await docker.start()
    (tmp_path / "other").mkdir()
    second = await docker.start(state_dir=tmp_path / "other" / "state")
    assert first.poll() is None
    assert (await page(first.endpoint.http, "/v2/health/ready"))[0] == 200
    await second.stop(60)
    assert first.poll() is None


# -- containers that are kept ----------------------------------------------------------------


@pytest.fixture
async def kept(docker):
    """Containers that outlive their launcher; removed when the test is over."""
    docker.container = docker.container.model_copy(update={"keep": True})
    yield docker
    await docker.sweep()
    for name in docker.engine.containers_of(docker.repository):
        docker.engine.client.containers.get(name).remove(force=True)


async def test_a_kept_server_is_adopted_with_its_models(kept, connect):
    publish_doubler(kept.repository)
    first = await kept.start()
    await connect(first).load("double")
    identity, pid = instance(first), first.endpoint.pid
    await first.stop(60)
    assert psutil.pid_exists(pid)
    second = await kept.start()
    assert (instance(second), second.endpoint.pid) == (identity, pid)
    client = connect(second)
    assert await client.state("double") == "READY"
    assert (await client.ask("double", X))["y"].tolist() == DOUBLED
    await client.unload("double")
    await client.load("double")
    assert await eventually(lambda: second.events.bytes_of("double") is not None)


async def test_a_kept_server_survives_a_killed_launcher_and_is_adopted(kept):
    parent = await Parent.start(kept)
    await parent.kill()
    server = await kept.start()
    assert server.endpoint.pid == parent.server
    assert server.poll() is None


async def test_a_kept_server_of_another_configuration_is_replaced(kept):
    first = await kept.start()
    former = first.endpoint.pid
    await first.stop(60)
    second = await kept.start(shm_size=128 * MIB)
    assert gone([former])
    assert second.endpoint.pid != former
    assert len(kept.engine.containers_of(kept.repository)) == 1


async def test_a_kept_server_that_was_killed_meanwhile_is_replaced(kept):
    first = await kept.start()
    former = first.endpoint.pid
    await first.stop(60)
    psutil.Process(former).kill()
    assert gone([former])
    second = await kept.start()
    assert second.endpoint.pid != former
    assert len(kept.engine.containers_of(kept.repository)) == 1


# -- an engine that dies under us ------------------------------------------------------------


@pytest.fixture
async def mortal(mortal_engine, cpu_image, tmp_path, repository):
    """Servers in containers of an engine that the test may kill."""
    engine = mortal_engine.ensure()
    container = ContainerSpec(image=cpu_image, pull="never", engine=engine.address)
    ground = Ground("container", repository, tmp_path / "state", container, engine)
    yield ground
    ground.engine = mortal_engine.ensure()
    await ground.sweep()
    assert await ground.is_clean(), ground.leftovers()


async def test_a_server_goes_on_serving_while_its_engine_is_dead(mortal, mortal_engine, connect):
    publish_doubler(mortal.repository)
    server = await mortal.start()
    client = connect(server)
    await client.load("double")
    mortal_engine.die(signal.SIGKILL)
    assert (await client.ask("double", X))["y"].tolist() == DOUBLED
    assert server.poll() is None
    # On its return the engine ends what it does not know any more, perhaps in peace.
    mortal_engine.ensure()
    assert await server.wait() in (0, -signal.SIGKILL)
    assert (await mortal.start()).poll() is None


async def test_a_server_that_dies_while_its_engine_is_dead_is_told(mortal, mortal_engine):
    server = await mortal.start()
    mortal_engine.die(signal.SIGKILL)
    psutil.Process(server.endpoint.pid).kill()
    assert await server.wait() == -signal.SIGKILL


async def test_an_engine_that_is_ended_takes_its_server_along_and_that_is_told(
    mortal, mortal_engine
):
    server = await mortal.start()
    mortal_engine.die(signal.SIGTERM)
    await server.wait()
    assert server.poll() is not None
    with pytest.raises(EngineUnavailable):
        await mortal.start()
    mortal.engine = mortal_engine.ensure()
    assert (await mortal.start()).poll() is None


async def test_a_server_whose_engine_is_dead_can_be_stopped(mortal, mortal_engine):
    server = await mortal.start()
    mortal_engine.die(signal.SIGKILL)
    await server.stop(5)
    assert server.poll() is not None
    assert gone([server.endpoint.pid])
