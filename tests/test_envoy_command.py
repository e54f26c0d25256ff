"""An Envoy that runs beside its fleet: what it waits for, what it outlives, what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.gateway.envoy.bare import write_bootstrap
from tests.gateway.envoy.running import free_port, short_folder
from tests.launchers.processes import eventually
from tests.tiny import adder_fleet
from tritonfleet import parts
from tritonfleet.envoy_command import follow
from tritonfleet.errors import InvalidSpec, LauncherUnavailable, PortTaken
from tritonfleet.gateway.envoy import files, handover
from tritonfleet.gateway.envoy.admin import Admin
from tritonfleet.gateway.envoy.handover import Report, Wanted
from tritonfleet.gateway.envoy.process import EnvoyOptions
from tritonfleet.gateway.envoy.program import Program
from tritonfleet.launchers import embedded
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.command import Invocation
from tritonfleet.launchers.embedded import EmbeddedLauncher, free_ports
from tritonfleet.parts import AttachedEnvoy
from tritonfleet.settings import Settings, resolve_settings
from tritonfleet.supervisor import running_fleet

PATIENCE_S = 30.0
KEY = "0123456789abcdef"
REQUEST = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


@pytest.fixture
def state_dir():
    """Short, because sockets lie in it."""
    with short_folder() as folder:
        yield folder


@pytest.fixture
def folder(state_dir):
    return files.run_folder(state_dir, shared=True)


@dataclass(frozen=True)
class Wish:
    """A fleet that wants an Envoy which answers 200 to everything."""

    folder: Path
    http: int

    @property
    def options(self) -> EnvoyOptions:
        program, ports = Program("unknown", "0"), {"http": self.http}
        return EnvoyOptions(program, self.folder, self.folder.parent, "127.0.0.1", ports, 1)

    @property
    def wanted(self) -> Wanted:
        return Wanted.of(self.options)

    def leave(self, **changes) -> Wanted:
        wanted = replace(self.wanted, **changes)
        handover.want(self.folder, wanted)
        return wanted


@pytest.fixture
def wish(folder):
    port = free_port()
    write_bootstrap(folder, port, listeners=["http"])
    return Wish(folder, port)


# -- what both sides leave each other ------------------------------------------------------------


def test_what_is_left_is_read_as_it_was(wish):
    assert handover.wanted(wish.folder) is None
    wanted = wish.leave()
    assert handover.wanted(wish.folder) == wanted
    handover.report(wish.folder, Report(wanted, "no port"))
    assert handover.reported(wish.folder) == Report(wanted, "no port")


def test_another_beginning_is_another_envoy(wish):
    before = wish.wanted
    assert wish.wanted == before
    write_bootstrap(wish.folder, wish.http, behind="127.0.0.1:1")
    assert wish.wanted != before


def test_what_another_release_has_left_counts_for_nothing(wish):
    files.write(wish.folder / "wanted.json", b'{"version": 2}')
    assert handover.wanted(wish.folder) is None


# -- the fleet's side ----------------------------------------------------------------------------


async def test_a_fleet_without_its_envoy_says_what_to_start(wish):
    part = AttachedEnvoy(lambda: wish.options, timeout_s=0)
    with pytest.raises(LauncherUnavailable, match="tritonfleet envoy --state-dir") as caught:
        await part.start()
    assert str(wish.folder.parent) in str(caught.value)
    assert handover.wanted(wish.folder) == wish.wanted


async def test_a_fleet_tells_why_its_envoy_does_not_start(wish):
    handover.report(wish.folder, Report(wish.wanted, "port 8000 is taken"))
    with pytest.raises(LauncherUnavailable, match="ready within 0 s: port 8000 is taken"):
        await AttachedEnvoy(lambda: wish.options, timeout_s=0).start()


async def test_an_envoy_that_was_wanted_before_is_not_the_one(wish):
    handover.report(wish.folder, Report(replace(wish.wanted, concurrency=7), "old cause"))
    with pytest.raises(LauncherUnavailable, match=r"ready within 0 s\. Run"):
        await AttachedEnvoy(lambda: wish.options, timeout_s=0).start()


# -- the command's side --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def following(state_dir, **settings):
    """``tritonfleet envoy`` on this event loop, until the block ends."""
    task = asyncio.create_task(follow(Settings(state_dir=state_dir, stop_grace_s=5, **settings)))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def status(port: int, path="/", body=None) -> int:
    url = f"http://127.0.0.1:{port}{path}"
    async with aiohttp.ClientSession() as session:
        async with session.request("POST" if body else "GET", url, json=body) as answer:
            await answer.read()
            return answer.status


async def serves(wish) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        return await status(wish.http) == 200
    return False


async def until_served(wish, wanted) -> None:
    part = AttachedEnvoy(lambda: wish.options, PATIENCE_S)
    part_admin = Admin(wish.options.admin)
    await part._until_ready(part_admin, wanted)
    await part_admin.close()


def envoys(folder) -> set[int]:
    """The Envoys that run from a folder."""
    bootstrap = f"{folder}/bootstrap.json"
    running = psutil.process_iter(["cmdline"])
    return {one.pid for one in running if bootstrap in (one.info["cmdline"] or ())}


@pytest.mark.envoy
async def test_it_waits_for_a_fleet_and_leaves_nothing(wish):
    async with following(wish.folder.parent):
        assert not await serves(wish)
        await until_served(wish, wish.leave())
        assert await serves(wish)
    assert not await serves(wish)
    assert not wish.folder.exists()


@pytest.mark.envoy
async def test_an_envoy_that_dies_is_started_again(wish):
    async with following(wish.folder.parent):
        await until_served(wish, wish.leave())
        (pid,) = envoys(wish.folder)
        os.kill(pid, signal.SIGKILL)
        assert await eventually(lambda: bool(envoys(wish.folder) - {pid}))
        await until_served(wish, wish.wanted)


@pytest.mark.envoy
async def test_the_same_wish_leaves_envoy_alone_and_another_replaces_it(wish):
    async with following(wish.folder.parent):
        await until_served(wish, wish.leave())
        before = envoys(wish.folder)
        part = AttachedEnvoy(lambda: wish.options, PATIENCE_S)
        await part.start()
        await part.stop(0)
        assert envoys(wish.folder) == before
        await until_served(wish, wish.leave(concurrency=2))
        assert envoys(wish.folder).isdisjoint(before)


@pytest.mark.envoy
async def test_the_fleet_notices_the_loss_of_its_envoy(wish, monkeypatch):
    monkeypatch.setattr(parts, "_ATTACHED_GONE_AFTER_S", 0.1)
    part = AttachedEnvoy(lambda: wish.options, PATIENCE_S)
    async with following(wish.folder.parent):
        await part.start()
        waiting = asyncio.create_task(part.wait())
        share = files.Share(wish.folder)
    assert await asyncio.wait_for(waiting, PATIENCE_S) == parts.ATTACHED_LOST
    async with following(wish.folder.parent):
        await part.start()
        assert await serves(wish)
    await part.stop(0)
    share.end()


@pytest.mark.envoy
async def test_the_folder_stays_as_long_as_the_fleet_needs_it(wish):
    share = files.Share(wish.folder)
    async with following(wish.folder.parent):
        await until_served(wish, wish.leave())
    assert wish.folder.exists()
    share.end()
    assert not wish.folder.exists()


@pytest.mark.envoy
async def test_a_taken_port_is_told_to_both_sides(wish):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = wish.leave(ports={"http": taken.getsockname()[1]})
        share = files.Share(wish.folder)
        async with following(wish.folder.parent) as task:
            with pytest.raises(PortTaken):
                await asyncio.wait_for(task, PATIENCE_S)
        told = handover.reported(wish.folder)
        assert told.wanted == wanted
        assert "is taken by another process" in told.cause
        share.end()


@pytest.mark.envoy
async def test_a_state_directory_of_another_path_is_told(wish):
    wish.leave(folder=Path("/state/gateway"))
    async with following(wish.folder.parent) as task:
        with pytest.raises(LauncherUnavailable, match=r"and /state for the fleet\. Mount it"):
            await asyncio.wait_for(task, PATIENCE_S)


async def test_another_users_folder_is_told(folder, monkeypatch):
    files.Share(folder).end()
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(LauncherUnavailable, match="this process is of user 4711"):
        await follow(Settings(state_dir=folder.parent))


# -- the command itself --------------------------------------------------------------------------


def command(state_dir, *more):
    return [sys.executable, "-m", "tritonfleet", "envoy", "--state-dir", str(state_dir), *more]


def test_its_check_fails_where_there_is_none(state_dir):
    done = subprocess.run(command(state_dir, "--check"), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"no Envoy serves from {state_dir}/gateway\n"


def test_a_path_that_is_too_long_for_sockets_is_told(state_dir):
    done = subprocess.run(command(state_dir / ("x" * 90)), capture_output=True, text=True)
    assert done.returncode == 1
    assert "Choose a shorter state_dir" in done.stderr


@pytest.mark.envoy
async def test_it_ends_well_when_it_is_told_to(wish):
    state_dir = wish.folder.parent
    process = await asyncio.create_subprocess_exec(
        *command(state_dir), env={**os.environ, "TRITONFLEET_STOP_GRACE_S": "5"}
    )
    await until_served(wish, wish.leave())
    check = await asyncio.create_subprocess_exec(*command(state_dir, "--check"))
    assert await check.wait() == 0
    process.terminate()
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    assert envoys(wish.folder) == set()
    assert not wish.folder.exists()


# -- a whole fleet -------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def attached_fleet(spec, state_dir, server):
    """A fleet whose server and Envoy are somebody else's."""
    end = server.endpoint
    (state_dir / "secret").write_text(f"{end.admin_secret}\n")
    changes = {
        "attach": {"local": f"{end.http},{end.grpc},{end.metrics}"},
        "admin_secret": "file:secret",
    }
    settings = resolve_settings(spec.settings, changes)
    async with running_fleet(spec, settings, state_dir, isolated=True) as fleet:
        yield fleet


@pytest.fixture
async def start_server(tmp_path, monkeypatch):
    """Starts a tritonserver of somebody else, always with the same ports and secret."""
    spec = adder_fleet(tmp_path, {"one": "40MiB", "two": "40MiB"})
    ports, running = free_ports(), []
    monkeypatch.setattr(
        embedded, "_new_invocation", lambda name, events=None: Invocation(name, ports, KEY, events)
    )

    async def start():
        options = LaunchOptions("local", spec.settings.repository, tmp_path / "theirs")
        running.append(await EmbeddedLauncher().start(options))
        return spec, running[-1]

    yield start
    for server in running:
        await server.stop(0)


def shared_settings(spec, state_dir):
    changes = {
        "state_dir": state_dir,
        "http_port": free_port(),
        "grpc_port": free_port(),
        "attached_envoy": True,
    }
    return spec.model_copy(update={"settings": spec.settings.model_copy(update=changes)})


class Stream:
    """Asks for a warm model again and again, until it is ended."""

    def __init__(self, port):
        self.outcomes, self._port = [], port
        self._task = asyncio.create_task(self._run())

    async def end(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self):
        while True:
            self.outcomes.append(await status(self._port, "/v2/models/one/infer", REQUEST))

    async def some_more(self, count=20):
        wanted = len(self.outcomes) + count
        assert await eventually(lambda: len(self.outcomes) >= wanted)


@pytest.mark.triton
@pytest.mark.envoy
async def test_a_fleet_is_replaced_while_warm_requests_go_on(start_server, state_dir):
    spec, theirs = await start_server()
    spec = shared_settings(spec, state_dir)
    port, folder = spec.settings.http_port, files.run_folder(state_dir, shared=True)
    async with following(state_dir):
        async with attached_fleet(spec, state_dir, theirs):
            await until_direct(port, folder)
            before = envoys(folder)
            stream = Stream(port)
            await stream.some_more()
        await stream.some_more()  # while there is no fleet at all
        async with attached_fleet(spec, state_dir, theirs):
            await stream.some_more()
            assert envoys(folder) == before
            assert await status(port, "/v2/models/two/infer", REQUEST) == 200
        await stream.end()
        assert set(stream.outcomes) == {200}
    assert not folder.exists()


@pytest.mark.triton
@pytest.mark.envoy
async def test_a_server_that_is_back_gets_its_models_again(start_server, state_dir):
    spec, theirs = await start_server()
    spec = shared_settings(spec, state_dir)
    port, folder = spec.settings.http_port, files.run_folder(state_dir, shared=True)
    async with following(state_dir), attached_fleet(spec, state_dir, theirs) as fleet:
        await until_direct(port, folder)
        await theirs.stop(0)
        assert await eventually(lambda: fleet.servers["local"].running is None)
        await start_server()
        assert await eventually(lambda: fleet.servers["local"].running is not None)
        assert await until_answered(port)


async def until_direct(port, folder):
    """Returns once requests for the model pass nobody of us."""
    assert await status(port, "/v2/models/one/infer", REQUEST) == 200
    residency = folder / "residency.json"
    assert await eventually(lambda: b"resident|local|one" in residency.read_bytes())


async def until_answered(port):
    """Whether requests for the model are answered again, before patience ends."""
    for _ in range(int(PATIENCE_S / 0.1)):
        if await status(port, "/v2/models/one/infer", REQUEST) == 200:
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.envoy
async def test_an_attached_envoy_wants_ports_that_stay(tmp_path, state_dir):
    spec = shared_settings(adder_fleet(tmp_path, {"one": "1MiB"}), state_dir)
    settings = spec.settings.model_copy(update={"http_port": 0})
    with pytest.raises(InvalidSpec, match="http_port: 0 picks another each time"):
        async with running_fleet(spec, settings, state_dir):
            pass
