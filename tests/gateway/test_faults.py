"""Processes are killed under load: what clients see, what comes back, and what is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.gateway.rough import Traffic, declared, processes, write_python_adder
from tests.serving import Served, serving, until
from tests.tiny import adder_fleet
from tritonfleet.errors import ConfigRejected
from tritonfleet.gateway.envoy.plan import ServerAddress
from tritonfleet.talk import published_addresses

pytestmark = [pytest.mark.triton, pytest.mark.envoy]

SHARED_MEMORY = Path("/dev/shm")
UNAVAILABLE = {"http 502", "http 503", "grpc UNAVAILABLE"}
"""What a client may see of a request that was in a tritonserver when it died."""
SIZES = {"one": "30MiB", "two": "30MiB", "three": "60MiB"}
SLOW = declared("slow", "30MiB")


def fleet_of(path):
    """'one', 'two' and 'slow' fit together; 'three' takes the place of two of them."""
    spec = adder_fleet(path, SIZES, extra=SLOW)
    write_python_adder(path / "repository", "slow", amount=9.0, busy_s=0.2)
    return spec


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(fleet_of(tmp_path_factory.mktemp("fleet")), isolated=True) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def whole(request):
    """Begins with all that fits in memory, and ends with memory within its capacity all along."""
    if "served" not in request.fixturenames:
        yield
        return
    served = request.getfixturevalue("served")
    until(lambda: brought(served, "one", "two", "slow"), 60)
    with Ledger(served) as ledger:
        yield
        until(lambda: tried(served, "one") == 200, 60)
    assert ledger.looks
    assert not ledger.over


def brought(served, *models):
    """Whether all of them answer and are in memory: one may have driven another out."""
    return all(tried(served, name) == 200 for name in models) and ready(served) >= set(models)


def tried(served, model):
    """The status of one request; None where nobody answers."""
    try:
        return served.add(model)[0]
    except OSError:
        return None


class Ledger:
    """Looks at the memory of every server again and again, whenever there is somebody to ask."""

    def __init__(self, served):
        self._served, self.looks, self.over, self._stop = served, 0, [], threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.02):
            with contextlib.suppress(OSError):
                for server in self._served.status()["servers"]:
                    self.looks += 1
                    if server["occupied_bytes"] > server["capacity_bytes"]:
                        self.over.append(server)


def kill(pid):
    """Kills a process and returns once its parent knows.

    A zombie may have threads left, and with them its sockets.
    """
    process = psutil.Process(pid)
    process.kill()
    until(lambda: not process.is_running())


def is_gone(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ready(served):
    """The models that are in memory; nothing while nobody can say."""
    try:
        return {name for name, state in served.states().items() if state == "READY"}
    except OSError:
        return set()


def until_replaced(served, *names):
    """Returns once each of these processes has a successor that does its work."""
    before = processes(served)

    @contextlib.contextmanager
    def killed():
        for name in names:
            kill(before[name])
        yield
        until(
            lambda: all(processes(served)[name] not in (before[name], None) for name in names), 60
        )
        until(lambda: ready(served), 60)

    return killed()


def instance(pid):
    """The name by which all that a tritonserver leaves behind is known."""
    (argument,) = (each for each in psutil.Process(pid).cmdline() if each.startswith("--id="))
    return argument.removeprefix("--id=")


def left_of(name):
    """Processes and shared memory that belong to one tritonserver."""
    regions = [region.name for region in SHARED_MEMORY.glob(f"{name}_*")]
    return regions + [each.pid for each in psutil.process_iter() if name in command_of(each)]


def command_of(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


# -- the brain -------------------------------------------------------------------------------------


def test_a_killed_brain_fails_no_warm_request_however_often(served):
    before = processes(served)
    with Traffic(served, clients=2) as traffic:
        for _ in range(3):
            traffic.until_more()
            with until_replaced(served, "brain"):
                traffic.until_more()
            traffic.until_more()
    assert not traffic.failures
    after = processes(served)
    assert {name for name in before if before[name] != after[name]} == {"brain"}
    assert {"one", "two", "slow"} <= ready(served)


def test_a_cold_request_that_comes_while_there_is_no_brain_is_answered_by_the_next_one(served):
    with Traffic(served) as traffic, ThreadPoolExecutor(8) as clients:
        traffic.until_more()
        with until_replaced(served, "brain"):
            answers = [answer[:2] for answer in clients.map(served.add, ["three"] * 8)]
    assert {status for status, _ in answers} == {200}, answers
    # 'three' takes the room of others, perhaps of 'one', which is then brought back.
    assert not traffic.failures


def test_a_cold_request_in_a_brain_that_is_killed_is_told_so_and_the_next_one_is_answered(served):
    served.call("POST", "/v2/repository/models/slow/unload")
    with ThreadPoolExecutor(4) as clients:
        asked = [clients.submit(served.add, "slow") for _ in range(4)]
        until(lambda: served.status()["activator"]["held"] >= 1)
        with until_replaced(served, "brain"):
            pass
        outcomes = [each.result() for each in asked]
    for status, answer, _ in outcomes:
        assert status == 200 or (status == 503 and " run" in answer["error"])
    assert served.add("slow")[0] == 200


def test_a_brain_that_hangs_holds_up_no_warm_request_and_goes_on_where_it_was(served):
    served.call("POST", "/v2/repository/models/slow/unload")
    brain = psutil.Process(served.fleet.brain.pid)
    with Traffic(served) as traffic, ThreadPoolExecutor(1) as client:
        traffic.until_more()
        brain.suspend()
        try:
            cold = client.submit(served.add, "slow")
            traffic.until_more(20)
            assert not cold.done()
        finally:
            brain.resume()
        assert cold.result()[0] == 200
    assert not traffic.failures


# -- tritonserver ----------------------------------------------------------------------------------


def test_a_killed_tritonserver_fails_what_was_in_it_and_all_others_wait_for_the_next(served):
    clients = 2
    before = processes(served)
    with Traffic(served, clients=clients) as traffic:
        traffic.until_more()
        with until_replaced(served, "tritonserver"):
            traffic.until_more()
    assert set(traffic.failures) <= UNAVAILABLE
    # Each client has one request under way at a time, and only that one may be lost.
    assert sum(traffic.failures.values()) <= 2 * clients
    assert processes(served) | {"tritonserver": 0} == before | {"tritonserver": 0}


def test_what_a_killed_tritonserver_held_comes_back_and_nothing_of_it_stays_behind(served):
    pid = served.endpoint("local").pid
    name = instance(pid)
    assert left_of(name)
    held = ready(served)
    with until_replaced(served, "tritonserver"):
        pass
    until(lambda: not left_of(name))
    assert instance(served.endpoint("local").pid) != name
    for model in held:
        assert served.add(model)[0] == 200
    assert held <= ready(served)


def test_requests_that_come_while_tritonserver_is_away_are_answered_by_the_next(served):
    kill(served.endpoint("local").pid)
    with ThreadPoolExecutor(9) as clients:
        answers = clients.map(served.add, ["one", "two", "slow"] * 3)
        outcomes = [(status, answer) for status, answer, _ in answers]
    # One that took a connection of which nobody knew yet that it was broken may have run.
    unsure = ("may have run", "does not answer")
    told = [answer["error"] for status, answer in outcomes if status != 200]
    assert all(any(words in text for words in unsure) for text in told), told
    for name in ("one", "two", "slow"):
        assert served.add(name)[0] == 200


def test_a_model_in_its_own_process_that_dies_takes_nobody_with_it(served):
    name = instance(served.endpoint("local").pid)
    stubs = [
        each
        for each in psutil.Process(served.endpoint("local").pid).children(recursive=True)
        if "triton_python_backend_stub" in command_of(each) and "/slow/" in command_of(each)
    ]
    assert stubs
    with Traffic(served) as traffic:
        traffic.until_more()
        for stub in stubs:
            stub.kill()
        until(lambda: tried(served, "slow") == 200, 60)
        traffic.until_more()
    assert not traffic.failures
    assert instance(served.endpoint("local").pid) == name


def test_a_request_that_makes_triton_abort_costs_what_was_in_it_and_is_not_sent_again(served):
    # Triton makes room for as many numbers as the shape says before it looks for them.
    poison = {"shape": [2**62 - 1, 4], "data": [1.0]}
    before = served.endpoint("local").pid
    with Traffic(served) as traffic:
        traffic.until_more()
        status, answer, _ = served.add("two", **poison)
        assert (status, "may have run" in answer["error"]) == (503, True)
        until(lambda: processes(served)["tritonserver"] not in (before, None), 60)
        second = served.endpoint("local").pid
        traffic.until_more()
    assert set(traffic.failures) <= UNAVAILABLE
    assert served.add("two")[0] == 200
    assert served.endpoint("local").pid == second


# -- Envoy -----------------------------------------------------------------------------------------


def test_a_killed_envoy_cuts_its_connections_and_is_back_at_the_same_ports(served):
    before, resident = processes(served), ready(served)
    requests = served.status()["activator"]["requests"]
    with Traffic(served, clients=2) as traffic:
        traffic.until_more()
        with until_replaced(served, "envoy"):
            traffic.until_more()
    assert set(traffic.failures) <= {"http connection lost", "grpc UNAVAILABLE"}
    after = processes(served)
    assert {name for name in before if before[name] != after[name]} == {"envoy"}
    assert ready(served) == resident
    # The next one knows from its files which models are in memory.
    assert served.status()["activator"]["requests"] == requests


def test_everything_is_killed_at_once_and_everything_is_back(served):
    name = instance(served.endpoint("local").pid)
    with Traffic(served) as traffic:
        traffic.until_more()
        with until_replaced(served, "brain", "tritonserver", "envoy"):
            traffic.until_more()
    # A tritonserver that is back before the brain says itself that it does not hold the model.
    away = {"http connection lost", "http 404", "grpc NOT_FOUND"}
    assert set(traffic.failures) <= UNAVAILABLE | away
    until(lambda: not left_of(name))
    for model in ("one", "two", "slow", "three"):
        assert until(lambda model=model: tried(served, model) == 200, 60)


def test_kills_in_turn_over_more_models_than_fit_leave_a_fleet_that_serves(served):
    seen, stop = set(), threading.Event()

    def ask(model):
        while not stop.is_set():
            seen.add(tried(served, model))

    with ThreadPoolExecutor(4) as clients:
        for model in ("one", "two", "three", "slow"):
            clients.submit(ask, model)
        try:
            for name in ("brain", "tritonserver", "envoy", "brain"):
                until(lambda: ready(served))
                with until_replaced(served, name):
                    pass
        finally:
            stop.set()
    # 502: tritonserver died with the request in it. None: there was no Envoy.
    assert seen <= {200, 502, 503, None}
    for model in ("one", "two", "three", "slow"):
        assert until(lambda model=model: tried(served, model) == 200, 60)
    status = served.status()
    assert all(model["waiting"] == model["in_use"] == 0 for model in status["models"])
    assert status["activator"]["held_bytes"] == 0


# -- a configuration that Envoy rejects ------------------------------------------------------------


def test_a_plan_that_envoy_rejects_is_told_in_its_words_and_disturbs_nobody(tmp_path):
    with serving(fleet_of(tmp_path)) as served:
        assert served.add("one")[0] == 200
        plane = served.brain.data_plane
        before = files_of(plane.plan.folder)
        wrong = replace(plane.plan, servers=(ServerAddress("local", "nowhere:1", "nowhere:1"),))
        with Traffic(served) as traffic:
            traffic.until_more()
            with pytest.raises(ConfigRejected, match="nowhere"):
                served.run(plane.apply(wrong))
            traffic.until_more()
            assert files_of(plane.plan.folder) == before
            # What comes after it is none the worse for it: models load, leave and are reached.
            assert served.add("three")[0] == served.add("two")[0] == 200
            assert not served.run(plane.apply(plane.plan)).changed
        assert not traffic.failures


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*ds*.json")}


# -- the supervisor --------------------------------------------------------------------------------


def test_of_a_killed_supervisor_nothing_remains_and_the_next_one_starts_in_its_place(tmp_path):
    fleet_of(tmp_path)
    with supervised(tmp_path) as (supervisor, gateway):
        family = psutil.Process(supervisor.pid).children(recursive=True)
        (server,) = (each for each in family if each.name() == "tritonserver")
        name = instance(server.pid)
        gateway.add("slow")
        family = psutil.Process(supervisor.pid).children(recursive=True)
        with ThreadPoolExecutor(4) as clients:
            under_way = [clients.submit(tried, gateway, "slow") for _ in range(4)]
            supervisor.kill()
            supervisor.wait()
            assert {each.result() for each in under_way} <= {200, 502, 503, None}
    until(lambda: all(map(is_gone, family)))
    assert not left_of(name)
    with supervised(tmp_path) as (supervisor, gateway):
        assert gateway.add("slow")[0] == gateway.add("one")[0] == 200
        supervisor.send_signal(signal.SIGINT)
        assert supervisor.wait(60) == 0


class Elsewhere(Served):
    """A fleet in another process."""

    def __init__(self, addresses):
        self.gateway, self.control = addresses.gateway, addresses.control


@contextlib.contextmanager
def supervised(folder):
    """``tritonfleet serve`` as a process, and a way to ask it."""
    log = folder / "serve.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tritonfleet", "serve", "-f", "fleet.yaml"],
            cwd=folder, stderr=stderr, start_new_session=True, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
    try:
        until(lambda: "Ctrl-C" in log.read_text() or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        yield process, Elsewhere(published_addresses(folder / "state"))
    finally:
        process.kill()
        process.wait()
