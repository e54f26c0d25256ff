"""Whatever dies is started again, and whoever depends on it is told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import adder_fleet
from tritonfleet import parts as parts_module
from tritonfleet.errors import BrainFailed, InvalidAccess, ServerExited
from tritonfleet.gateway.envoy.program import Program
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.orders import Order, ServerLink
from tritonfleet.parts import BrainChild, Tritonserver
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.settings import resolve_settings
from tritonfleet.spec import ServerSpec
from tritonfleet.supervisor import (
    HEALTHY_S,
    RESTART_FIRST_S,
    RESTART_LONGEST_S,
    Backoff,
    Fleet,
    keep,
)

# -- restarts ------------------------------------------------------------------------------------


class Mortal:
    """A part that ends whenever ``deaths`` has another status, and whose starts may fail."""

    name = "mortal"
    attached = False

    def __init__(self, deaths, failures=()):
        self.deaths, self.failures, self.seen = list(deaths), list(failures), []

    async def start(self):
        self.seen.append("start")
        if self.failures:
            raise self.failures.pop()

    async def wait(self):
        if not self.deaths:
            raise asyncio.CancelledError
        return self.deaths.pop()

    async def lost(self):
        self.seen.append("lost")

    async def stop(self, grace_s):
        self.seen.append("stop")

    def log_tail(self, lines):
        return "last words"


async def kept(part):
    """The pauses that were made until the part lives for good."""
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    with pytest.raises(asyncio.CancelledError):
        await keep(part, sleep)
    return pauses


async def test_a_part_that_dies_is_started_again_at_once(caplog):
    part = Mortal([1])
    assert await kept(part) == [0.0]
    assert part.seen == ["lost", "start"]
    assert "mortal exited status=1" in caplog.text
    assert "last words" in caplog.text


async def test_a_part_of_somebody_elses_is_waited_for(caplog):
    part = Mortal([1])
    part.attached = True
    await kept(part)
    assert part.seen == ["lost", "start"]
    assert "waiting for it" in caplog.text
    assert "exited" not in caplog.text


async def test_a_start_that_fails_is_repeated_and_told(caplog):
    failures = [ServerExited("mortal", 1, "no such file")] * 3
    part = Mortal([1], failures)
    assert await kept(part) == [0.0, 0.5, 1.0, 2.0]
    assert part.seen == ["lost", "start", "start", "start", "start"]
    assert caplog.text.count("no such file") == 3


async def test_a_part_that_keeps_dying_is_restarted_ever_more_slowly():
    pauses = await kept(Mortal([1] * 10))
    assert pauses == sorted(pauses)
    assert pauses[-1] == RESTART_LONGEST_S


@given(st.lists(st.floats(0, 2 * HEALTHY_S), max_size=40))
def test_pauses_are_bounded_and_begin_anew_after_a_healthy_run(runs):
    backoff = Backoff()
    for ran_s in runs:
        before = backoff.next_s
        pause = backoff.pause_s(ran_s)
        assert pause == (0.0 if ran_s > HEALTHY_S else before)
        assert RESTART_FIRST_S <= backoff.next_s <= RESTART_LONGEST_S


# -- tritonservers -------------------------------------------------------------------------------


class Told:
    """In place of the brain: what it was told."""

    def __init__(self):
        self.seen = []

    async def server_lost(self, name):
        self.seen.append(("lost", name))

    async def server_back(self, link):
        self.seen.append(("back", link.name, link.endpoint.http))


class Launched:
    """In place of a launcher and of what it launches."""

    events = None

    def __init__(self, port):
        self.endpoint = Endpoint(f"h:{port}", "h:2")

    async def start(self, options):
        assert options.name == "local"
        return self


async def test_the_brain_learns_of_a_server_that_is_lost_and_where_it_is_when_it_is_back(
    monkeypatch,
):
    ports = [2, 1]
    monkeypatch.setattr(parts_module.plugins, "lookup", lambda *_: lambda: Launched(ports.pop()))
    server = Tritonserver(ServerSpec(name="local", capacity=1), options())
    await server.start()
    assert server.link == ServerLink("local", Endpoint("h:1", "h:2"))
    brain = server.brain = Told()
    await server.lost()
    assert server.link is None
    await server.start()
    assert brain.seen == [("lost", "local"), ("back", "local", "h:2")]


def options():
    return LaunchOptions("local", Path("/nowhere"), Path("/nowhere"))


@pytest.mark.parametrize(("launcher", "attached"), [("embedded", False), ("external", True)])
def test_only_a_server_with_an_address_is_somebody_elses(launcher, attached):
    spec = ServerSpec(name="local", capacity=1, launcher=launcher)
    assert Tritonserver(spec, options()).attached == attached


# -- attached servers ----------------------------------------------------------------------------


def fleet(tmp_path, **settings):
    spec = adder_fleet(tmp_path, {"one": "1MiB"})
    attach = {"local": "far:1,far:2,far:3"}
    return Fleet(spec, resolve_settings(spec.settings, {"attach": attach, **settings}), tmp_path)


def test_an_attached_server_is_given_its_addresses_and_its_secret(tmp_path):
    (tmp_path / "secret").write_text("sesame\n")
    given = fleet(tmp_path, admin_secret="file:secret").servers["local"]._options
    assert (given.http_url, given.grpc_url, given.metrics_url) == ("far:1", "far:2", "far:3")
    assert given.admin_secret == "sesame"
    assert "sesame" not in repr(given)


def test_a_server_without_a_secret_gets_none(tmp_path):
    assert fleet(tmp_path).servers["local"]._options.admin_secret is None


def test_a_secret_that_is_not_there_is_told_before_anything_starts(tmp_path):
    with pytest.raises(InvalidAccess, match="the admin secret of server 'local', env:NO_SUCH"):
        fleet(tmp_path, admin_secret="env:NO_SUCH")


# -- the brain as a process of its own -----------------------------------------------------------


@pytest.fixture
async def child(tmp_path, monkeypatch):
    """Starts a brain whose process runs some lines of Python after it has read its order."""
    order = Order(
        adder_fleet(tmp_path, {"one": "1MiB"}),
        adder_fleet(tmp_path / "again", {"one": "1MiB"}).settings,
        tmp_path,
        (),
        Program("/bin/envoy", "1.40.0"),
    )
    started = []

    def make(lines):
        script = "import sys\norder = sys.stdin.readline()\n" + textwrap.dedent(lines)
        monkeypatch.setattr(parts_module, "_BRAIN", script)
        started.append(BrainChild(lambda: order))
        return started[-1]

    yield make
    for brain in started:
        await brain.stop(0)


READY = "print('{\"pid\": 1}', flush=True)\n"


async def test_a_brain_that_is_ready_serves_until_it_is_stopped(child):
    brain = child(READY + "assert 'grace_s' in sys.stdin.readline()\n")
    await brain.start()
    await brain.stop(5)
    assert await brain.wait() == 0


async def test_a_brain_that_cannot_begin_says_why(child):
    brain = child('print(\'{"cause": "envoy says no"}\', flush=True)\n')
    with pytest.raises(BrainFailed, match="envoy says no"):
        await brain.start()


async def test_a_brain_that_ends_before_it_is_ready_is_told_by_its_status(child):
    with pytest.raises(BrainFailed, match="status 3"):
        await child("sys.exit(3)\n").start()


async def test_a_killed_brain_is_noticed_and_started_again(child):
    brain = child(READY + "sys.stdin.readline()\n")
    await brain.start()
    first = brain.pid
    os.kill(first, signal.SIGKILL)
    assert await brain.wait() == -signal.SIGKILL
    await brain.server_lost("local")  # there is nobody to tell, and that is no error
    await brain.start()
    assert brain.pid != first


async def test_wishes_come_in_order(child, tmp_path):
    told = tmp_path / "told"
    brain = child(READY + f"open({str(told)!r}, 'w').write(sys.stdin.read())\n")
    await brain.start()
    await brain.server_lost("local")
    await brain.server_back(ServerLink("local", Endpoint("h:1", "h:2")))
    process = brain._process
    process.stdin.close()
    await brain.wait()
    lost, back = told.read_text().splitlines()
    assert lost == '{"name":"local"}'
    assert '"link":{"name":"local"' in back


async def test_a_stuck_brain_is_killed(child, monkeypatch):
    monkeypatch.setattr(parts_module, "_STOP_MARGIN_S", 0.05)
    brain = child(READY + "import signal\nwhile True: signal.pause()\n")
    await brain.start()
    await brain.stop(0)
    assert await brain.wait() == -signal.SIGKILL


async def test_ctrl_c_in_the_terminal_does_not_reach_the_brain(child):
    brain = child(
        "import os\nprint('{\"pid\": %d}' % os.getsid(0), flush=True)\nsys.stdin.read()\n"
    )
    await brain.start()
    assert os.getsid(brain.pid) == brain.pid != os.getsid(0)


async def test_the_order_is_neither_an_argument_nor_in_the_environment(child):
    brain = child(READY + "sys.stdin.readline()\n")
    await brain.start()
    process = psutil.Process(brain.pid)
    told = [*process.cmdline(), *process.environ().values()]
    assert told[0] == sys.executable
    assert not any("nowhere:adder" in text for text in told)


def test_the_supervisor_knows_nothing_of_what_it_supervises():
    code = (
        "import sys, tritonfleet.app;"
        "sys.exit(any(f'tritonfleet.{name}' in sys.modules for name in"
        " ('brain', 'controller.controller', 'gateway.desk', 'gateway.envoy.dataplane')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
