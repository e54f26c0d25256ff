"""However a tritonserver was started and however it ends, it tells how and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from tritonclient.utils import InferenceServerException

from tests.launchers.contract.ground import instance
from tests.launchers.contract.models import DOUBLED, ENTERED, X, publish_gated
from tests.launchers.onnx_models import publish_doubler
from tests.launchers.processes import descendants, eventually, gone, regions

pytestmark = pytest.mark.triton


async def test_a_stopped_server_leaves_nothing_but_its_log(any_network, connect):
    publish_doubler(any_network.repository)
    publish_gated(any_network.repository).touch()
    server = await any_network.start()
    client = connect(server)
    for model in ("double", "gated"):
        await client.load(model)
    identity = instance(server)
    processes = [server.endpoint.pid, *descendants(server.endpoint.pid)]
    assert len(processes) == 2
    assert server.events.path.exists()
    await server.stop(60)
    assert server.poll() == 0
    assert await server.wait() == 0
    assert any_network.leftovers() == []
    assert gone(processes)
    assert regions(identity) == []
    assert not server.events.path.parent.exists()
    assert server.log_file.exists()


async def under_way(client, server):
    """A request that has entered the gated model and waits there."""
    await client.load("gated")
    request = asyncio.ensure_future(client.ask("gated", X))
    assert await eventually(lambda: ENTERED in server.log_tail(100))
    return request


async def test_a_request_under_way_is_finished_before_a_stop(ground, connect):
    gate = publish_gated(ground.repository)
    server = await ground.start()
    client = connect(server)
    request = await under_way(client, server)
    stopping = asyncio.ensure_future(server.stop(60))
    assert await eventually(lambda: "Waiting for in-flight requests" in server.log_tail(100))
    assert server.poll() is None
    gate.touch()
    assert (await request)["y"].tolist() == DOUBLED
    await stopping
    assert server.poll() == 0


async def test_without_grace_a_request_under_way_holds_nobody_up(ground, connect):
    publish_gated(ground.repository)
    server = await ground.start()
    request = await under_way(connect(server), server)
    await server.stop(0)
    assert server.poll() == -signal.SIGKILL
    with pytest.raises(InferenceServerException):
        await request
    assert await ground.is_clean()


async def test_stopping_twice_even_at_once_is_harmless(ground):
    server = await ground.start()
    await asyncio.gather(server.stop(60), server.stop(60))
    status = server.poll()
    await server.stop(60)
    assert status == server.poll() == 0


async def test_a_successor_under_the_same_name_starts_right_after_a_stop(ground, connect):
    publish_doubler(ground.repository)
    first = await ground.start()
    await first.stop(60)
    second = await ground.start()
    client = connect(second)
    await client.load("double")
    assert (await client.ask("double", X))["y"].tolist() == DOUBLED


async def test_a_killed_server_tells_its_status_and_takes_its_models_along(any_network, connect):
    publish_doubler(any_network.repository)
    publish_gated(any_network.repository).touch()
    server = await any_network.start()
    client = connect(server)
    for model in ("double", "gated"):
        await client.load(model)
    identity, models = instance(server), descendants(server.endpoint.pid)
    assert models
    os.kill(server.endpoint.pid, signal.SIGKILL)
    assert await server.wait() == -signal.SIGKILL
    assert server.poll() == -signal.SIGKILL
    assert "successfully loaded 'double'" in server.log_tail(50)
    assert gone(models)
    assert regions(identity) == []
    assert not server.events.path.parent.exists()
    assert any_network.leftovers() == []


async def test_a_killed_server_has_a_successor_at_once(ground):
    first = await ground.start()
    os.kill(first.endpoint.pid, signal.SIGKILL)
    second = await ground.start()
    assert second.poll() is None
    assert await first.wait() == -signal.SIGKILL


async def test_stopping_a_server_that_has_died_is_harmless(ground):
    server = await ground.start()
    os.kill(server.endpoint.pid, signal.SIGKILL)
    await server.stop(60)
    assert server.poll() == -signal.SIGKILL


async def test_models_that_were_just_starting_when_the_server_was_killed_end_too(ground, connect):
    names = ("one", "two", "three")
    for name in names:
        publish_gated(ground.repository, name)
    server = await ground.start()
    client = connect(server)
    loads = [asyncio.ensure_future(client.load(name)) for name in names]
    assert await eventually(lambda: descendants(server.endpoint.pid) != [])
    identity, models = instance(server), descendants(server.endpoint.pid)
    os.kill(server.endpoint.pid, signal.SIGKILL)
    assert await server.wait() == -signal.SIGKILL
    assert gone(models)
    assert regions(identity) == []
    failures = await asyncio.gather(*loads, return_exceptions=True)
    assert all(isinstance(failure, InferenceServerException) for failure in failures)


# -- the launcher's own process dies ---------------------------------------------------------

PARENT = """
import asyncio, json, sys
from pathlib import Path
from tritonclient.grpc import InferenceServerClient
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.plugins import lookup
from tritonfleet.spec.containers import ContainerSpec

async def main():
    launcher, repository, state, container = sys.argv[1:]
    options = LaunchOptions(
        "gpu0", Path(repository), Path(state),
        container=ContainerSpec.model_validate_json(container),
    )
    server = await lookup("launchers", launcher)().start(options)
    client = InferenceServerClient(server.endpoint.grpc)
    for model in ("double", "gated"):
        client.load_model(model, headers=server.endpoint.admin_grpc_headers)
    print(server.endpoint.pid, server.events.path, flush=True)
    await server.wait()

asyncio.run(main())
"""


class Parent:
    """A process of its own that has started a server with two models."""

    def __init__(self, process, server: int, events: Path) -> None:
        self.process, self.server, self.events = process, server, events
        self.everything = {*descendants(process.pid), server, *descendants(server)}
        arguments = psutil.Process(server).cmdline()
        (self.instance,) = (each[5:] for each in arguments if each.startswith("--id="))

    @classmethod
    async def start(cls, ground) -> Parent:
        publish_doubler(ground.repository)
        publish_gated(ground.repository).touch()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PARENT, ground.launcher_name, ground.repository, ground.state),
            ground.container.model_dump_json(),
            stdout=asyncio.subprocess.PIPE,
        )
        server, events = (await process.stdout.readline()).decode().split()
        return cls(process, int(server), Path(events))

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


async def test_nothing_outlives_a_killed_launcher(any_network):
    parent = await Parent.start(any_network)
    assert parent.events.exists()
    await parent.kill()
    assert await any_network.is_clean()
    assert gone(parent.everything)
    assert regions(parent.instance) == []
    assert await eventually(lambda: not parent.events.parent.exists())


async def test_the_next_start_waits_for_what_a_killed_launcher_has_left(ground):
    parent = await Parent.start(ground)
    await parent.kill()
    server = await ground.start()
    assert gone(parent.everything)
    assert instance(server) != parent.instance
    assert server.poll() is None


async def test_the_next_start_clears_up_when_launcher_and_helpers_were_killed_at_once(ground):
    parent = await Parent.start(ground)
    helpers = [psutil.Process(pid) for pid in descendants(parent.process.pid)]
    for helper in helpers:
        helper.suspend()
    await parent.kill()
    for helper in helpers:
        helper.kill()
    server = await ground.start()
    assert gone(parent.everything)
    assert regions(parent.instance) == []
    assert server.events.path == parent.events or not parent.events.parent.exists()
    assert server.poll() is None
    assert len(ground.engine.containers_of(ground.repository) if ground.engine else [0]) == 1
