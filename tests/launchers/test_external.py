"""A server of somebody else: found, waited for, watched, and left alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.launchers.far import FarServer
from tests.launchers.processes import eventually
from tests.tiny import write_adder
from tritonfleet.errors import LauncherUnavailable, ServerUnreachable
from tritonfleet.launchers import external
from tritonfleet.launchers.base import Launcher, LaunchOptions, RunningServer
from tritonfleet.launchers.embedded import EmbeddedLauncher, free_ports
from tritonfleet.launchers.external import ExternalLauncher, ExternalServer
from tritonfleet.server.client import TritonClient

PATIENCE_S = 30.0


def options(http_url, grpc_url="127.0.0.1:8001", **more):
    return LaunchOptions("far", Path("m"), Path("s"), http_url=http_url, grpc_url=grpc_url, **more)


@pytest.fixture
async def far():
    """Starts servers of somebody else."""
    started = []

    async def start(**kind):
        server = FarServer(**kind)
        await server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        await server.stop()


def attach(server, timeout_s=0.0, **more):
    return ExternalLauncher(timeout_s).start(options(server.http, server.grpc, **more))


# -- finding it ----------------------------------------------------------------------------------


async def test_a_live_server_is_taken_as_it_is(far):
    there = await far()
    server = await attach(there, metrics_url="127.0.0.1:8002")
    assert server.name == "far"
    assert (server.endpoint.http, server.endpoint.grpc) == (there.http, there.grpc)
    assert server.endpoint.metrics == "127.0.0.1:8002"
    assert server.endpoint.pid is None
    assert (server.endpoint.admin_key, server.endpoint.admin_secret) == (None, None)
    assert server.log_file is None
    assert server.log_tail() == ""
    assert server.poll() is None
    assert (server.onnxruntime_backend, server.events) == (None, None)


async def test_it_keeps_to_the_protocols(far):
    assert isinstance(ExternalLauncher(), Launcher)
    assert isinstance(await attach(await far()), RunningServer)


async def test_a_name_is_looked_up_for_those_who_know_only_numbers(far):
    there = await far()
    named = options(
        there.http.replace("127.0.0.1", "localhost"), there.grpc.replace("127.0.0.1", "localhost")
    )
    server = await ExternalLauncher(0).start(named)
    assert (server.endpoint.http, server.endpoint.grpc) == (there.http, there.grpc)


@pytest.mark.parametrize("address", ["10.1.2.3:8000", "[::1]:8000"])
async def test_a_number_stays_as_it_is(address):
    assert await external._resolved(address) == address


async def test_a_server_that_is_not_live_is_unreachable(far):
    there = await far()
    there.status = 400
    with pytest.raises(ServerUnreachable, match="far"):
        await attach(there)


async def test_an_address_where_nobody_listens_is_named():
    address = f"127.0.0.1:{free_ports().http}"
    with pytest.raises(ServerUnreachable, match=address):
        await ExternalLauncher(0).start(options(address))


async def test_a_name_that_leads_nowhere_is_named():
    with pytest.raises(ServerUnreachable, match=r"no-such-host\.invalid:8000"):
        await ExternalLauncher(0).start(options("no-such-host.invalid:8000"))


async def test_where_http_answers_and_grpc_does_not_the_latter_is_named(far):
    address = f"127.0.0.1:{free_ports().grpc}"
    with pytest.raises(ServerUnreachable, match=rf"{address} \(gRPC\)"):
        await ExternalLauncher(0).start(options((await far()).http, address))


@pytest.mark.parametrize(
    ("urls", "key"),
    [
        ({"http_url": None}, "http_url"),
        ({"http_url": "http://a:1"}, "http_url"),
        ({"http_url": "a"}, "http_url"),
        ({"http_url": "a:99999"}, "http_url"),
        ({"grpc_url": None}, "grpc_url"),
        ({"metrics_url": "a:b"}, "metrics_url"),
    ],
)
async def test_an_address_must_be_host_and_port(urls, key):
    with pytest.raises(LauncherUnavailable, match=f"Write '{key}: host:port'"):
        await ExternalLauncher().start(replace(options("a:1", "a:1"), **urls))


async def test_a_server_that_is_still_starting_is_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(external, "_POLL_S", 0.01)
    monkeypatch.setattr(external, "_SAID_AFTER_S", 0.0)
    there = FarServer()
    starting = asyncio.create_task(attach(there, PATIENCE_S))
    assert await eventually(lambda: "waiting for server=far" in caplog.text)
    await there.start()
    assert (await starting).endpoint.http == there.http
    assert caplog.text.count("waiting for server=far") == 1
    await there.stop()


# -- what it lets us do --------------------------------------------------------------------------


async def test_its_secret_opens_it(far):
    server = await attach(await far(secret="sesame"), admin_secret="sesame")
    assert server.endpoint.admin_http_headers == {"tritonfleet-admin": "sesame"}


@pytest.mark.parametrize(
    ("secret", "hint"), [(None, "as admin_secret"), ("other", "another than the server")]
)
async def test_a_server_that_refuses_our_secret_is_told_at_once_and_the_secret_is_not(
    far, secret, hint
):
    there = await far(secret="sesame")
    with pytest.raises(LauncherUnavailable, match=f"protocol is restricted.*{hint}") as caught:
        await attach(there, admin_secret=secret)
    assert there.grpc in str(caught.value)
    assert "other'" not in str(caught.value)


async def test_a_server_that_loads_models_as_it_likes_is_told_at_once(far):
    with pytest.raises(LauncherUnavailable, match="--model-control-mode=explicit"):
        await attach(await far(explicit=False))


# -- watching ------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(external, "_POLL_S", 0.01)
    monkeypatch.setattr(external, "_GONE_AFTER_S", 0.1)


async def has_answered_a_few_times(there, monkeypatch):
    """Returns a task that waits for the loss of a server, once it has seen it well."""
    enough, seen = asyncio.Event(), 0
    answers = external._answers

    async def counted(*arguments):
        nonlocal seen
        there_it_is = await answers(*arguments)
        seen += there_it_is
        if seen > 3:
            enough.set()
        return there_it_is

    server = await attach(there)
    monkeypatch.setattr(external, "_answers", counted)
    waiting = asyncio.create_task(server.wait())
    await asyncio.wait_for(enough.wait(), PATIENCE_S)
    return server, waiting


async def test_stopping_it_does_nothing(far, quick, monkeypatch):
    there = await far()
    server, waiting = await has_answered_a_few_times(there, monkeypatch)
    await server.stop(0)
    assert not waiting.done()
    assert (await attach(there)).endpoint == server.endpoint
    waiting.cancel()


async def test_one_that_answers_no_more_is_lost(far, quick, monkeypatch):
    there = await far()
    _, waiting = await has_answered_a_few_times(there, monkeypatch)
    there.status = 503
    assert await asyncio.wait_for(waiting, PATIENCE_S) == external.LOST


@pytest.mark.parametrize("ready", [[], ["vit"]])
async def test_one_that_is_restarted_at_once_without_its_models_is_lost(
    far, quick, monkeypatch, ready
):
    monkeypatch.setattr(external, "_GONE_AFTER_S", PATIENCE_S)
    there = await far()
    there.ready = ["bert"]
    _, waiting = await has_answered_a_few_times(there, monkeypatch)
    await there.stop()
    there.ready = ready
    await there.start()
    assert await asyncio.wait_for(waiting, PATIENCE_S) == external.LOST


async def test_one_that_has_only_closed_a_connection_is_not_lost(far, quick, monkeypatch):
    monkeypatch.setattr(external, "_GONE_AFTER_S", PATIENCE_S)
    there = await far()
    there.ready = ["bert"]
    _, waiting = await has_answered_a_few_times(there, monkeypatch)
    before = there.looked_at
    await there.stop()
    await there.start()
    assert await eventually(lambda: there.looked_at > before)
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    waiting.cancel()


async def test_connections_that_never_last_mean_nothing(far, quick, monkeypatch):
    there = await far()
    there.headers = {"Connection": "close"}
    _, waiting = await has_answered_a_few_times(there, monkeypatch)
    assert not waiting.done()  # though it is empty, and each connection was another
    waiting.cancel()


# -- a real one ----------------------------------------------------------------------------------


@pytest.fixture
async def embedded(tmp_path, monkeypatch):
    """Starts a real tritonserver, each time at the same ports."""
    write_adder(tmp_path / "repository", "one")
    ports = free_ports()
    monkeypatch.setattr("tritonfleet.launchers.embedded.free_ports", lambda: ports)
    running = []

    async def start():
        given = LaunchOptions("local", tmp_path / "repository", tmp_path / "state")
        running.append(await EmbeddedLauncher().start(given))
        return running[-1]

    yield start
    for server in running:
        await server.stop(0)


def beside(server, secret=None) -> LaunchOptions:
    end = server.endpoint
    return options(end.http, end.grpc, metrics_url=end.metrics, admin_secret=secret)


async def load(server: ExternalServer, model: str) -> None:
    client = TritonClient("far", server.endpoint)
    await client.load(model, PATIENCE_S)
    await client.close()


@pytest.mark.triton
async def test_a_real_server_is_managed_with_its_secret_and_refuses_any_other(embedded):
    theirs = await embedded()
    ours = await ExternalLauncher().start(beside(theirs, theirs.endpoint.admin_secret))
    await load(ours, "one")
    for wrong in (None, "wrong"):
        with pytest.raises(LauncherUnavailable, match="restricted"):
            await ExternalLauncher().start(beside(theirs, wrong))


@pytest.mark.triton
async def test_a_real_server_that_is_killed_is_lost_and_found_again(embedded):
    theirs = await embedded()
    ours = await ExternalLauncher().start(beside(theirs, theirs.endpoint.admin_secret))
    await load(ours, "one")
    waiting = asyncio.create_task(ours.wait())
    await theirs.stop(0)
    assert await asyncio.wait_for(waiting, PATIENCE_S) == external.LOST
    again = await embedded()
    assert again.endpoint.http == theirs.endpoint.http
    ours = await ExternalLauncher().start(beside(again, again.endpoint.admin_secret))
    await load(ours, "one")
