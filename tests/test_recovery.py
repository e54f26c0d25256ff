"""Any process of a real fleet is killed: what goes on, what comes back, and what it remembers."""

from __future__ import annotations

import json
import threading

import psutil
import pytest

from tests.serving import serving, until
from tests.tiny import adder_fleet
from tritonfleet import supervisor
from tritonfleet.gateway.envoy.files import run_folder

pytestmark = [pytest.mark.triton, pytest.mark.envoy]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Two adders that fit together and a third that does not, the brain in a process of its own."""
    path = tmp_path_factory.mktemp("fleet")
    spec = adder_fleet(path, {"one": "40MiB", "two": "40MiB", "three": "40MiB"})
    with pytest.MonkeyPatch.context() as patch:
        # A fleet whose parts were killed so often would wait longer and longer.
        patch.setattr(supervisor, "HEALTHY_S", 0.0)
        with serving(spec, isolated=True) as fleet:
            yield fleet


@pytest.fixture(autouse=True)
def up(served):
    """No test begins with what another has left dead."""
    until(lambda: answers(served) and reached(served, "one"))


def published(served):
    """The models that Envoy may send directly."""
    file = run_folder(served.fleet.settings.state_dir) / "residency.json"
    layer = json.loads(file.read_bytes())["resources"][0]["layer"]
    return {key.split("|")[2] for key in layer if key.startswith("resident|")}


def warm(served, *models):
    """Waits until requests for the models pass nobody of us."""

    def asked_and_published():
        # Asked each time: what was just evicted for one of them may have been another of them.
        assert all(served.add(model)[0] == 200 for model in models)
        return set(models) <= published(served)

    until(asked_and_published)


def seen_by_the_activator(served):
    return served.status()["activator"]["requests"]


def kill(pid):
    """Returns once it is dead: what it still takes on its way out would be lost."""
    process = psutil.Process(pid)
    process.kill()
    until(lambda: not process.is_running() or is_dead(process))
    return pid


def is_dead(process):
    """Whether all its threads have ended, and with them its connections."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
    except psutil.NoSuchProcess:
        return True


def kill_brain(served):
    return kill(served.fleet.brain.pid)


def until_there_is_another_brain(served, former):
    until(lambda: served.fleet.brain.pid != former and answers(served))


def answers(served):
    try:
        return served.call("GET", "/v1/status", control=True)[0] == 200
    except OSError:
        return False


class Stream:
    """One client that asks for a model again and again, until the block ends."""

    def __init__(self, served, model):
        self.outcomes, self._stop = [], threading.Event()
        self._thread = threading.Thread(target=self._run, args=(served, model))

    def _run(self, served, model):
        while not self._stop.is_set():
            self.outcomes.append(served.add(model)[0])

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def test_a_warm_request_passes_nobody_of_us(served):
    warm(served, "one")
    before = seen_by_the_activator(served)
    for _ in range(20):
        assert served.add("one")[0] == 200
    assert seen_by_the_activator(served) == before


def test_a_killed_brain_is_not_noticed_by_warm_requests_and_its_successor_knows_what_is_there(
    served,
):
    warm(served, "one", "two")
    with Stream(served, "one") as client:
        former = kill_brain(served)
        until_there_is_another_brain(served, former)
        until(lambda: served.states()["two"] == "READY")
    assert len(client.outcomes) > 10
    assert set(client.outcomes) == {200}
    assert served.states()["one"] == "READY"


def test_what_is_resident_stays_published_while_there_is_no_brain_and_when_there_is_one_again(
    served,
):
    warm(served, "one", "two")
    gaps, stop = [], threading.Event()

    def watch():
        while not stop.wait(0.001):
            if not {"one", "two"} <= published(served):
                gaps.append(published(served))

    watcher = threading.Thread(target=watch)
    watcher.start()
    until_there_is_another_brain(served, kill_brain(served))
    before = seen_by_the_activator(served)
    assert served.add("one")[0] == served.add("two")[0] == 200
    stop.set()
    watcher.join()
    assert not gaps
    assert seen_by_the_activator(served) == before


def test_a_cold_request_waits_for_the_next_brain(served):
    warm(served, "one", "two")
    kill_brain(served)
    status, answer, headers = served.add("three")
    assert (status, answer["outputs"][0]["data"]) == (200, [4, 5, 6, 7])
    assert headers["tritonfleet-residency"] == "cold"


def test_a_new_brain_evicts_what_an_earlier_one_has_loaded(served):
    warm(served, "one", "two")
    until_there_is_another_brain(served, kill_brain(served))
    assert served.add("three")[0] == 200
    ready = [name for name, state in served.states().items() if state == "READY"]
    assert "three" in ready
    assert len(ready) == 2
    assert published(served) <= set(ready)


def test_pins_survive_the_brain(served):
    assert served.call("POST", "/v1/models/two/pin", control=True)[0] == 200
    until_there_is_another_brain(served, kill_brain(served))
    two = next(model for model in served.status()["models"] if model["name"] == "two")
    assert two["pinned"]
    assert served.call("POST", "/v1/models/two/unpin", control=True)[0] == 200


def test_a_killed_envoy_is_back_at_the_same_ports_and_goes_on_with_what_was_published(served):
    warm(served, "one")
    before = seen_by_the_activator(served)
    former = kill(served.fleet.envoy.running.pid)
    until(lambda: reached(served, "one"))
    assert served.fleet.envoy.running.pid != former
    assert seen_by_the_activator(served) == before


def reached(served, model):
    try:
        return served.add(model)[0] == 200
    except OSError:
        return False


def test_a_killed_tritonserver_is_back_with_what_it_held(served):
    warm(served, "one")
    kill(served.endpoint("local").pid)
    until(lambda: served.add("one")[0] == 200)
    warm(served, "one")
    before = seen_by_the_activator(served)
    assert served.add("one")[0] == 200
    assert seen_by_the_activator(served) == before


def test_a_tritonserver_that_dies_while_there_is_no_brain_is_taken_as_it_comes_back(served):
    warm(served, "one")
    former = served.fleet.brain.pid
    tritonserver = served.endpoint("local").pid
    kill_brain(served)
    kill(tritonserver)
    until_there_is_another_brain(served, former)
    until(lambda: served.add("one")[0] == 200)
    until(lambda: served.status()["servers"][0]["up"])
    assert served.endpoint("local").pid != tritonserver
