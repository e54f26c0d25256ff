"""A real Envoy's life: started, killed, drained, and why it would not start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket

import aiohttp
import psutil
import pytest
from aiohttp import web

from tests.gateway.envoy.bare import write_bootstrap
from tritonfleet.errors import ConfigRejected, LauncherUnavailable, PortTaken, ServerExited
from tritonfleet.gateway.envoy import files, process
from tritonfleet.gateway.envoy.program import Program

GRACE_S = 30.0


@pytest.fixture
async def slow():
    """A server whose answers wait until they are released."""
    came, release = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        came.set()
        await release.wait()
        return web.Response(text="done")

    application = web.Application()
    application.router.add_get("/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = site._server.sockets[0].getsockname()
    yield f"{host}:{port}", came, release
    release.set()
    await runner.cleanup()


async def get(port: int, path: str = "/") -> tuple[int, str]:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, await answer.text()


@contextlib.contextmanager
def taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.envoy
async def test_it_serves_on_the_ports_it_tells(start, folder):
    write_bootstrap(folder)
    envoy = await start()
    assert set(envoy.ports) == {"http", "grpc"}
    assert [await get(port) for port in envoy.ports.values()] == [(200, "")] * 2
    assert envoy.poll() is None


@pytest.mark.envoy
async def test_a_killed_one_is_told_and_a_successor_takes_its_place(start, folder):
    write_bootstrap(folder)
    envoy = await start()
    os.kill(envoy.pid, signal.SIGKILL)
    assert await envoy.wait() == -signal.SIGKILL
    assert await get((await start()).ports["http"]) == (200, "")


@pytest.mark.envoy
async def test_a_request_under_way_is_finished_and_a_newcomer_refused(start, folder, slow):
    behind, came, release = slow
    write_bootstrap(folder, behind=behind)
    envoy = await start()
    request = asyncio.create_task(get(envoy.ports["http"]))
    await came.wait()
    stopping = asyncio.create_task(envoy.stop(GRACE_S))
    with pytest.raises(aiohttp.ClientConnectionError):
        while not stopping.done():
            await get(envoy.ports["grpc"], "/other")
    assert envoy.poll() is None
    release.set()
    assert await request == (200, "done")
    await stopping
    assert envoy.poll() is not None


@pytest.mark.envoy
async def test_a_request_longer_than_the_grace_is_cut_off(start, folder, slow):
    behind, came, _ = slow
    write_bootstrap(folder, behind=behind)
    envoy = await start()
    request = asyncio.create_task(get(envoy.ports["http"]))
    await came.wait()
    await envoy.stop(0.1)
    with pytest.raises(aiohttp.ClientError):
        await request


@pytest.mark.envoy
async def test_stopping_twice_is_harmless(start, folder):
    write_bootstrap(folder)
    envoy = await start()
    await envoy.stop(GRACE_S)
    await envoy.stop(GRACE_S)
    assert envoy.poll() is not None


@pytest.mark.envoy
async def test_a_configuration_it_cannot_read_is_told_in_its_own_words(start, folder):
    write_bootstrap(folder)
    files.write(folder / "bootstrap.json", b'{"static_resources":{"listeners":[]},"nonsense":true}')
    with pytest.raises(ServerExited, match="nonsense"):
        await start()


@pytest.mark.envoy
async def test_a_second_one_in_the_same_folder_is_refused(start, folder, monkeypatch):
    monkeypatch.setattr(process, "_PREDECESSOR_S", 0.0)
    write_bootstrap(folder)
    first = await start()
    with pytest.raises(LauncherUnavailable, match="another one already runs"):
        await start()
    assert await get(first.ports["http"]) == (200, "")


@pytest.mark.envoy
async def test_a_taken_port_is_told_with_its_flag(start, folder):
    with taken() as port:
        write_bootstrap(folder, port)
        with pytest.raises(PortTaken, match=f"port {port} .* --grpc-port"):
            await start({"grpc": port})


@pytest.mark.envoy
async def test_a_listener_that_is_missing_is_told(start, folder):
    write_bootstrap(folder)
    with pytest.raises(ConfigRejected, match="it does not open other"):
        await start({"http": 0, "other": 0})


@pytest.mark.envoy
async def test_its_environment_holds_no_keys(start, folder, monkeypatch):
    monkeypatch.setenv("TEAM_A_KEY", "secret")
    write_bootstrap(folder)
    envoy = await start()
    assert "TEAM_A_KEY" not in psutil.Process(envoy.pid).environ()


@pytest.mark.envoy
async def test_a_program_that_is_none_has_ended(start, folder, tmp_path):
    write_bootstrap(folder)
    with pytest.raises(ServerExited, match="No such file"):
        await start(program=Program(str(tmp_path / "envoy"), "1.40.0"))
