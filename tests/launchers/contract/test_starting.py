"""However a tritonserver is started, it is ready, private, and alone under its name."""

from __future__ import annotations

import asyncio
import socket
import stat

import aiohttp
import psutil
import pytest
from tritonclient.utils import InferenceServerException

from tests.launchers.contract.ground import instance
from tests.launchers.contract.models import DOUBLED, X
from tests.launchers.onnx_models import publish_doubler
from tests.launchers.processes import eventually
from tritonfleet.errors import (
    ContainerFailed,
    LaunchError,
    LauncherUnavailable,
    PortTaken,
    ServerTimeout,
)
from tritonfleet.launchers import lock
from tritonfleet.launchers.base import Launcher, RunningServer

pytestmark = pytest.mark.triton


async def page(address, path, method="GET", **options):
    async with aiohttp.ClientSession() as session:
        async with session.request(method, f"http://{address}{path}", **options) as answer:
            return answer.status, await answer.text()


async def test_a_started_server_is_ready_and_is_the_one_it_should_be(any_network):
    server = await any_network.start()
    assert isinstance(any_network.launcher, Launcher)
    assert isinstance(server, RunningServer)
    assert (server.name, server.poll()) == ("gpu0", None)
    assert (await page(server.endpoint.http, "/v2/health/ready"))[0] == 200
    assert instance(server) in (await page(server.endpoint.http, "/v2"))[1]


async def test_it_serves_over_http_and_grpc_and_tells_metrics(any_network, connect):
    publish_doubler(any_network.repository)
    server = await any_network.start()
    client = connect(server)
    await client.load("double")
    assert (await client.ask("double", X))["y"].tolist() == DOUBLED
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    answer = await page(
        server.endpoint.http, "/v2/models/double/infer", "POST", json={"inputs": [tensor]}
    )
    assert answer[0] == 200
    assert '"data":[2.0,4.0]' in answer[1]
    metrics = await page(server.endpoint.metrics, "/metrics")
    assert 'nv_inference_request_success{model="double",version="1"} 2' in metrics[1]


async def test_nobody_beyond_this_machine_reaches_it(any_network):
    server = await any_network.start()
    ports = {
        int(address.rpartition(":")[2])
        for address in (server.endpoint.http, server.endpoint.grpc, server.endpoint.metrics)
    }
    # What the engine's forwarder listens on counts as well; inside a network of its own the
    # server may listen everywhere.
    listening = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port in ports
    }
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert len(ports) == 3


async def test_its_process_is_tritonserver_itself(any_network):
    server = await any_network.start()
    assert psutil.Process(server.endpoint.pid).name() == "tritonserver"


async def test_management_wants_the_secret_and_inference_does_not(any_network, connect):
    publish_doubler(any_network.repository)
    server = await any_network.start()
    client = connect(server)
    with pytest.raises(InferenceServerException, match="restricted"):
        await client.load_model("double")
    await client.load("double")
    await client.ask("double", X)
    index, headers = "/v2/repository/index", server.endpoint.admin_http_headers
    assert (await page(server.endpoint.http, index, "POST"))[0] == 403
    assert (await page(server.endpoint.http, index, "POST", headers=headers))[0] == 200


async def test_the_secret_is_in_no_log_and_in_no_file_that_others_may_read(ground):
    server = await ground.start()
    secret = server.endpoint.admin_secret
    assert secret not in repr(server) + repr(server.endpoint)
    files = [path for path in ground.state.rglob("*") if path.is_file()]
    holding = [path for path in files if secret.encode() in path.read_bytes()]
    assert server.log_file in files
    assert server.log_file not in holding
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in holding)


async def test_its_log_has_what_the_server_says(ground, connect):
    publish_doubler(ground.repository)
    server = await ground.start()
    assert server.log_file == ground.state / "logs/gpu0.log"
    await connect(server).load("double")
    assert await eventually(lambda: "successfully loaded 'double'" in server.log_tail(50))
    assert len(server.log_tail(3).splitlines()) == 3
    await server.stop(60)
    assert "successfully loaded 'double'" in server.log_file.read_text()


async def test_each_start_has_a_log_of_its_own_and_keeps_the_earlier(ground):
    first = await ground.start()
    identity = instance(first)
    await first.stop(60)
    second = await ground.start()
    assert identity in second.log_file.with_name("gpu0.log.1").read_text()
    assert identity not in second.log_file.read_text()


async def test_it_tells_what_runs_its_onnx_models(ground):
    server = await ground.start()
    assert server.onnxruntime_backend.startswith("native backend, ONNX Runtime 1.")


async def test_servers_of_different_names_run_side_by_side(any_network):
    first, second = await asyncio.gather(any_network.start("one"), any_network.start("two"))
    addresses = {
        address
        for server in (first, second)
        for address in (server.endpoint.http, server.endpoint.grpc, server.endpoint.metrics)
    }
    assert len(addresses) == 6
    assert instance(first) != instance(second)


async def test_a_second_server_of_the_same_name_is_refused(ground, monkeypatch):
    running = await ground.start()
    monkeypatch.setattr(lock, "_PREDECESSOR_S", 0.2)
    with pytest.raises(LauncherUnavailable, match="a server 'gpu0' already runs from"):
        await ground.start()
    assert running.poll() is None
    assert (await page(running.endpoint.http, "/v2/health/ready"))[0] == 200


async def test_of_two_starts_at_once_under_one_name_one_wins(ground, monkeypatch):
    monkeypatch.setattr(lock, "_PREDECESSOR_S", 2.0)
    both = await asyncio.gather(ground.start(), ground.start(), return_exceptions=True)
    (refused,) = (each for each in both if isinstance(each, LauncherUnavailable))
    (winner,) = (each for each in both if each is not refused)
    assert "already runs" in str(refused)
    assert (await page(winner.endpoint.http, "/v2/health/ready"))[0] == 200


@pytest.fixture
def taken():
    """A port on which somebody else listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("protocol", ["http", "grpc", "metrics"])
async def test_a_port_that_was_lost_to_somebody_else_is_given_up(
    any_network, taken, protocol, monkeypatch
):
    offers = any_network.offer_ports(monkeypatch, [{protocol: taken}])
    server = await any_network.start()
    assert offers == []
    assert not server.endpoint.http.endswith(f":{taken}")


async def test_a_port_that_is_always_taken_is_told_and_nothing_runs(
    any_network, taken, monkeypatch
):
    any_network.offer_ports(monkeypatch, [{"grpc": taken}] * 20)
    with pytest.raises(PortTaken, match=f"port {taken} on 127.0.0.1") as caught:
        await any_network.start()
    assert "Stop it, or choose another" in str(caught.value)
    assert await any_network.is_clean()


async def test_a_server_that_ends_at_once_tells_its_last_words_and_where_the_rest_is(ground):
    with pytest.raises(LaunchError) as caught:
        # A mistake of the fleet's file would be refused earlier: this one only Triton notices.
        await ground.start(model_load_thread_count="none")
    assert "gpu0" in str(caught.value)
    assert "Invalid option value" in str(caught.value)
    assert "gpu0.log" in str(caught.value)
    assert await ground.is_clean()


async def test_a_server_that_is_not_ready_in_time_is_not_left_running(ground):
    launcher = type(ground.launcher)(start_timeout_s=0.001)
    with pytest.raises((ServerTimeout, ContainerFailed), match=r"slow.* 0\.001 s"):
        await launcher.start(ground.options("slow"))
    assert await ground.is_clean()


async def test_a_start_that_is_given_up_leaves_nothing(ground):
    start = asyncio.ensure_future(ground.start())
    assert await eventually(lambda: start.done() or ground.leftovers() != [])
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert await ground.is_clean()


async def test_a_repository_that_does_not_exist_is_told(ground):
    nowhere = ground.repository / "nowhere"
    with pytest.raises(LauncherUnavailable, match=r"no model repository .*nowhere"):
        await ground.start(repository=nowhere)
    assert await ground.is_clean()


async def test_instances_share_resources_where_the_fleet_says_so(ground):
    server = await ground.start(rate_limit=True)
    assert "--rate-limit=execution_count" in psutil.Process(server.endpoint.pid).cmdline()
