"""A real tritonserver is started, used, stopped and killed, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy
import psutil
import pytest
from tritonclient.utils import InferenceServerException

from tests.launchers.onnx_models import publish_doubler
from tests.launchers.processes import descendants, eventually, gone, regions
from tritonfleet.errors import LauncherUnavailable, PortTaken, ServerExited, ServerTimeout
from tritonfleet.launchers import embedded as embedded_module
from tritonfleet.launchers import native as native_module
from tritonfleet.launchers.base import Launcher, LaunchOptions, RunningServer
from tritonfleet.launchers.embedded import EmbeddedLauncher, free_ports
from tritonfleet.launchers.native import choose_backend, events_folder

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


async def test_pid_is_the_one_of_tritonserver_itself(embedded):
    server = await embedded()
    assert psutil.Process(server.endpoint.pid).name() == "tritonserver"


async def test_management_wants_the_secret_and_inference_does_not(embedded, connect, repository):
    publish_doubler(repository)
    server = await embedded()
    client = connect(server)
    with pytest.raises(InferenceServerException, match="restricted"):
        await client.load_model("double")
    await client.load("double")
    await client.ask("double", X)
    async with aiohttp.ClientSession() as session:
        index = f"http://{server.endpoint.http}/v2/repository/index"
        async with session.post(index) as refused:
            assert refused.status == 403
        async with session.post(index, headers=server.endpoint.admin_http_headers) as allowed:
            assert allowed.status == 200


async def test_the_secret_is_in_no_log_and_no_file(embedded, tmp_path):
    server = await embedded()
    secret = server.endpoint.admin_secret
    assert secret not in repr(server.endpoint)
    await server.stop(60)
    texts = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert server.log_file in texts
    assert not any(secret.encode() in path.read_bytes() for path in texts)


async def test_each_start_has_a_log_of_its_own_and_keeps_the_earlier(embedded):
    first = await embedded()
    await first.stop(60)
    second = await embedded()
    earlier = second.log_file.with_name("gpu0.log.1").read_text()
    assert str(first.endpoint.grpc) in earlier
    assert str(first.endpoint.grpc) not in second.log_file.read_text()


async def test_servers_of_different_names_run_side_by_side(embedded):
    first, second = await asyncio.gather(embedded("one"), embedded("two"))
    addresses = {
        address
        for server in (first, second)
        for address in (server.endpoint.http, server.endpoint.grpc, server.endpoint.metrics)
    }
    assert len(addresses) == 6


async def test_a_second_server_of_the_same_name_is_refused(embedded, monkeypatch):
    monkeypatch.setattr(embedded_module, "_PREDECESSOR_S", 0.2)
    running = await embedded()
    with pytest.raises(LauncherUnavailable, match="a server 'gpu0' already runs from"):
        await embedded()
    assert running.poll() is None


def occupied() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@pytest.mark.parametrize("protocol", ["http", "grpc", "metrics"])
async def test_a_port_that_was_lost_to_somebody_else_is_given_up(embedded, monkeypatch, protocol):
    with occupied() as listener:
        port = listener.getsockname()[1]
        offers = [replace(free_ports(), **{protocol: port})]
        monkeypatch.setattr(
            embedded_module, "free_ports", lambda: offers.pop() if offers else free_ports()
        )
        server = await embedded()
    assert offers == []
    assert not server.endpoint.http.endswith(f":{port}")


async def test_ports_that_are_always_taken_are_told(embedded, monkeypatch):
    with occupied() as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(embedded_module, "free_ports", lambda: replace(free_ports(), grpc=port))
        with pytest.raises(PortTaken, match=f"port {port} on 127.0.0.1"):
            await embedded()


async def test_a_server_that_ends_at_once_tells_status_and_last_words(embedded, monkeypatch):
    def misspelt(*args, **options):
        return [*tritonserver_command(*args, **options), "--no-such-flag"]

    tritonserver_command = embedded_module.tritonserver_command
    monkeypatch.setattr(embedded_module, "tritonserver_command", misspelt)
    with pytest.raises(ServerExited) as caught:
        await embedded()
    assert caught.value.status == 1
    assert caught.value.log_tail
    assert "gpu0.log" in str(caught.value)


async def test_a_server_that_is_not_ready_in_time_is_not_left_running(tmp_path, repository):
    options = LaunchOptions("slow", repository, tmp_path / "state")
    with pytest.raises(ServerTimeout, match="'slow' did not finish 'start'"):
        await EmbeddedLauncher(start_timeout_s=0.001).start(options)
    assert gone(naming(tmp_path))


async def test_a_start_that_is_given_up_leaves_nothing(embedded, monkeypatch, tmp_path):
    asked = asyncio.Event()

    async def never(*args):
        asked.set()
        return False

    monkeypatch.setattr(embedded_module, "_is_ready", never)
    start = asyncio.ensure_future(embedded())
    await asked.wait()
    assert await eventually(lambda: naming(tmp_path) != [])
    running = naming(tmp_path)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert gone(running)


async def test_a_repository_that_does_not_exist_is_told(tmp_path):
    options = LaunchOptions("gpu0", tmp_path / "nowhere", tmp_path / "state")
    with pytest.raises(LauncherUnavailable, match=r"no model repository .*nowhere"):
        await EmbeddedLauncher().start(options)


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


@with_native
async def test_models_tell_of_themselves_until_the_server_ends(embedded, connect, repository):
    publish_doubler(repository)
    server = await embedded(onnxruntime_backend="native")
    client = connect(server)
    await client.load("double")
    assert await eventually(lambda: server.events.bytes_of("double") is not None)
    await client.unload("double")
    assert await eventually(lambda: server.events.bytes_of("double") is None)
    os.kill(server.endpoint.pid, signal.SIGKILL)
    await server.wait()
    assert not server.events.path.parent.exists()


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


def naming(folder: Path) -> list[int]:
    """The processes whose command line mentions the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in argument for argument in process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


def test_free_ports_are_three_different_ones():
    ports = free_ports()
    assert len({ports.http, ports.grpc, ports.metrics}) == 3
