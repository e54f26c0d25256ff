from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from tritonfleet.errors import LauncherUnavailable, ServerUnreachable
from tritonfleet.launchers.base import Launcher, LaunchOptions, RunningServer
from tritonfleet.launchers.embedded import free_ports
from tritonfleet.launchers.external import ExternalLauncher


def options(http_url, grpc_url="somewhere:8001"):
    return LaunchOptions("far", Path("m"), Path("s"), http_url=http_url, grpc_url=grpc_url)


@pytest.fixture
async def served():
    """Serves the health page with the given status; returns the address."""
    runners = []

    async def serve(status: int) -> str:
        async def live(request):
            return web.Response(status=status)

        app = web.Application()
        app.router.add_get("/v2/health/live", live)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"127.0.0.1:{runner.addresses[0][1]}"

    yield serve
    for runner in runners:
        await runner.cleanup()


async def test_a_live_server_is_taken_as_it_is(served):
    address = await served(200)
    server = await ExternalLauncher().start(options(address))
    assert server.name == "far"
    assert (server.endpoint.http, server.endpoint.grpc) == (address, "somewhere:8001")
    assert server.endpoint.pid is None
    assert server.log_file is None
    assert server.log_tail() == ""
    assert (server.onnxruntime_backend, server.events) == (None, None)


async def test_it_never_ends_and_stopping_it_does_nothing(served):
    server = await ExternalLauncher().start(options(await served(200)))
    waiting = asyncio.ensure_future(server.wait())
    await server.stop(0)
    await asyncio.wait([waiting], timeout=0)
    assert server.poll() is None
    assert not waiting.done()
    waiting.cancel()


async def test_a_server_that_is_not_live_is_unreachable(served):
    with pytest.raises(ServerUnreachable, match="far"):
        await ExternalLauncher().start(options(await served(400)))


async def test_an_address_where_nobody_listens_is_named():
    address = f"127.0.0.1:{free_ports().http}"
    with pytest.raises(ServerUnreachable, match=address):
        await ExternalLauncher().start(options(address))


@pytest.mark.parametrize(
    ("http_url", "grpc_url", "key"),
    [
        (None, "a:1", "http_url"),
        ("http://a:1", "a:1", "http_url"),
        ("a", "a:1", "http_url"),
        ("a:1", None, "grpc_url"),
    ],
)
async def test_an_address_must_be_host_and_port(http_url, grpc_url, key):
    with pytest.raises(LauncherUnavailable, match=f"Write '{key}: host:port'"):
        await ExternalLauncher().start(options(http_url, grpc_url))


async def test_it_keeps_to_the_protocols(served):
    launcher = ExternalLauncher()
    assert isinstance(launcher, Launcher)
    assert isinstance(await launcher.start(options(await served(200))), RunningServer)
