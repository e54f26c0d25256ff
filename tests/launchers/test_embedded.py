"""What is the embedded launcher's own: its backends. What all launchers share: contract/."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import numpy
import pytest
from tritonclient.utils import InferenceServerException

from tests.launchers.contract.ground import naming
from tests.launchers.onnx_models import publish_doubler
from tests.launchers.processes import descendants, eventually, gone, regions
from tritonfleet.errors import LauncherUnavailable, ServerExited
from tritonfleet.launchers import native as native_module
from tritonfleet.launchers.base import Launcher, RunningServer
from tritonfleet.launchers.embedded import EmbeddedLauncher
from tritonfleet.launchers.native import choose_backend, events_folder
from tritonfleet.launchers.readiness import free_ports

pytestmark = pytest.mark.triton

NATIVE = choose_backend("auto", os.environ)
with_native = pytest.mark.skipif(NATIVE.native is None, reason=str(NATIVE))
with_either = pytest.mark.parametrize(
    "backend", ["python", pytest.param("native", marks=with_native)]
)
X = {"x": ("FP32", numpy.array([[1, 2]], numpy.float32))}


def prefix(state: Path, name="gpu0") -> str:
    return (state / "servers" / name / "instance").read_text()


@with_either
async def test_a_started_server_loads_and_answers(embedded, connect, repository, backend):
    publish_doubler(repository)
    server = await embedded(onnxruntime_backend=backend)
    assert server.onnxruntime_backend.startswith(backend)
    assert isinstance(EmbeddedLauncher(), Launcher)
    assert isinstance(server, RunningServer)
    client = connect(server)
    await client.load("double")
    answer = await client.ask("double", X)
    assert answer["y"].tolist() == [[2, 4]]


@with_either
async def test_a_stopped_server_leaves_nothing_but_its_log(
    embedded, connect, repository, tmp_path, backend
):
    publish_doubler(repository)
    server = await embedded(onnxruntime_backend=backend)
    await connect(server).load("double")
    processes = [server.endpoint.pid, *descendants(server.endpoint.pid)]
    # The python-based backend has a process and a region for each model, the native one a socket.
    assert len(processes) == (2 if backend == "python" else 1)
    assert server.poll() is None
    assert (regions(prefix(tmp_path / "state")) != []) == (backend == "python")
    assert events_folder(prefix(tmp_path / "state")).exists() == (backend == "native")
    await server.stop(60)
    assert not events_folder(prefix(tmp_path / "state")).exists()
    assert server.poll() == 0
    assert await server.wait() == 0
    assert gone(processes)
    assert regions(prefix(tmp_path / "state")) == []
    assert server.log_file == tmp_path / "state/logs/gpu0.log"
    assert "successfully loaded 'double'" in server.log_file.read_text()


async def test_a_killed_server_tells_its_status_and_takes_its_models_along(
    embedded, connect, repository, tmp_path
):
    publish_doubler(repository)
    server = await embedded(onnxruntime_backend="python")
    await connect(server).load("double")
    models = descendants(server.endpoint.pid)
    assert models
    os.kill(server.endpoint.pid, signal.SIGKILL)
    assert await server.wait() == -signal.SIGKILL
    assert server.poll() == -signal.SIGKILL
    assert "successfully loaded 'double'" in server.log_tail()
    assert gone(models)
    assert regions(prefix(tmp_path / "state")) == []


async def test_models_in_processes_of_their_own_tell_nothing(embedded):
    assert (await embedded(onnxruntime_backend="python")).events is None


async def test_a_backend_that_is_not_there_is_told_before_anything_starts(
    embedded, monkeypatch, tmp_path
):
    monkeypatch.setattr(native_module, "_PACKAGE", "no_such_package")
    with pytest.raises(LauncherUnavailable, match="onnxruntime_backend is 'native', and"):
        await embedded(onnxruntime_backend="native")
    assert naming(tmp_path) == []
    server = await embedded(onnxruntime_backend="auto")
    assert server.onnxruntime_backend.startswith("python-based backend: tritonfleet-onnxruntime")


@with_native
async def test_a_start_that_failed_leaves_no_socket(embedded, monkeypatch):
    made = []

    def noted(instance):
        made.append(events_folder(instance))
        return made[-1]

    monkeypatch.setattr(native_module, "events_folder", noted)
    monkeypatch.setattr(EmbeddedLauncher, "_start", _refuse)
    with pytest.raises(ServerExited):
        await embedded(onnxruntime_backend="native")
    assert len(made) == 1
    assert not made[0].exists()


async def _refuse(self, plan, invocation, events, lock):
    assert events.path.exists()
    raise ServerExited("gpu0", 1, "")


async def test_models_that_were_just_starting_when_the_server_was_killed_end_too(
    embedded, connect, repository, tmp_path
):
    for name in ("one", "two", "three"):
        publish_doubler(repository, name)
    server = await embedded(onnxruntime_backend="python")
    client = connect(server)
    loads = [asyncio.ensure_future(client.load(name)) for name in ("one", "two", "three")]
    assert await eventually(lambda: descendants(server.endpoint.pid) != [])
    models = descendants(server.endpoint.pid)
    os.kill(server.endpoint.pid, signal.SIGKILL)
    assert await server.wait() == -signal.SIGKILL
    assert gone(models)
    assert naming(tmp_path) == []
    assert regions(prefix(tmp_path / "state")) == []
    failures = await asyncio.gather(*loads, return_exceptions=True)
    assert all(isinstance(failure, InferenceServerException) for failure in failures)


PARENT = """
import asyncio, sys
from pathlib import Path
from tritonclient.grpc import InferenceServerClient
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.embedded import EmbeddedLauncher

async def main():
    repository, state = map(Path, sys.argv[1:3])
    options = LaunchOptions("gpu0", repository, state, onnxruntime_backend=sys.argv[3])
    server = await EmbeddedLauncher().start(options)
    client = InferenceServerClient(server.endpoint.grpc)
    client.load_model("double", headers=server.endpoint.admin_grpc_headers)
    print("up", flush=True)
    await server.wait()

asyncio.run(main())
"""


@with_either
async def test_nothing_outlives_a_killed_parent_and_the_next_start_works(
    embedded, repository, tmp_path, backend
):
    publish_doubler(repository)
    state = tmp_path / "state"
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, repository, state, backend, stdout=asyncio.subprocess.PIPE
    )
    assert await parent.stdout.readline() == b"up\n"
    everything = descendants(parent.pid)
    # The guard, tritonserver and perhaps the model.
    assert len(everything) == (3 if backend == "python" else 2)
    instance = prefix(state)
    assert (regions(instance) != []) == (backend == "python")
    assert events_folder(instance).exists() == (backend == "native")
    parent.kill()
    await parent.wait()
    server = await embedded()  # waits until its predecessor has gone
    assert gone(everything)
    assert regions(instance) == []
    assert not events_folder(instance).exists()
    assert server.poll() is None


def test_free_ports_are_three_different_ones():
    ports = free_ports()
    assert len({ports.http, ports.grpc, ports.metrics}) == 3
