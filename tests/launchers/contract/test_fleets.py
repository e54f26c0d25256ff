"""A whole fleet on servers in containers, as its users see it: through the gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import psutil
import pytest

from tests.launchers.processes import gone
from tests.serving import serving, until
from tests.tiny import MIB, adder_fleet, write_adder
from tritonfleet import supervisor
from tritonfleet.gateway.envoy.files import remove, run_folder
from tritonfleet.spec.containers import ContainerSpec

pytestmark = [pytest.mark.triton, pytest.mark.envoy, pytest.mark.docker]


def contained(spec, image, **container):
    """The fleet, with its servers in containers."""
    changes = {"container": ContainerSpec(image=image, pull="never", **container)}
    servers = tuple(server.model_copy(update=changes) for server in spec.servers)
    settings = spec.settings.model_copy(update={"launcher": "container"})
    return spec.model_copy(update={"servers": servers, "settings": settings})


@pytest.fixture
def adders(tmp_path, cpu_image, bystander, engine):
    """Two adders that fit together and a third that does not; nothing is left of them."""
    spec = adder_fleet(tmp_path, {"one": "40MiB", "two": "40MiB", "three": "40MiB"})
    yield contained(spec, cpu_image)
    until(lambda: not engine.containers_of(tmp_path))


def test_cold_and_warm_requests_are_answered_and_room_is_made(adders):
    with serving(adders, isolated=True) as fleet:
        for model, amount in (("one", 1), ("two", 2), ("three", 3), ("one", 1)):
            status, answer, _ = fleet.add(model)
            assert (status, answer["outputs"][0]["data"][0]) == (200, 1 + amount)
        assert list(fleet.states().values()).count("READY") == 2
        assert fleet.fleet.onnxruntime_backends()["local"].startswith("native backend")


def test_a_tritonserver_that_is_killed_under_load_is_back_with_its_models(
    adders, engine, tmp_path, monkeypatch
):
    monkeypatch.setattr(supervisor, "HEALTHY_S", 0.0)
    with serving(adders, isolated=True) as fleet:
        assert fleet.add("one")[0] == fleet.add("two")[0] == 200
        stop, outcomes = threading.Event(), []

        def ask():
            while not stop.is_set():
                outcomes.append(fleet.add("one")[0])

        client = threading.Thread(target=ask)
        client.start()
        try:
            former = fleet.endpoint("local").pid
            psutil.Process(former).kill()
            until(lambda: (found := fleet.endpoint("local")) and found.pid != former)
            until(lambda: fleet.states()["two"] == "READY")
            until(lambda: outcomes[-20:] == [200] * 20)
        finally:
            stop.set()
            client.join()
        assert len(engine.containers_of(tmp_path)) == 1


def test_footprints_are_measured_and_the_budget_is_kept(tmp_path, cpu_image, bystander, engine):
    spec = adder_fleet(tmp_path, {"small": "1MiB"}, capacity="200MiB")
    # Declared by nobody: what they hold is found out by measuring.
    for name in ("first", "second", "third"):
        write_adder(tmp_path / "repository", name, megabytes=30)
    model = spec.models["small"].model_copy(
        update={"residency": spec.models["small"].residency.model_copy(update={"footprint": None})}
    )
    models = dict.fromkeys(("first", "second", "third"), model)
    spec = contained(spec.model_copy(update={"models": models}), cpu_image)
    with serving(spec) as fleet:
        assert [fleet.add(name)[0] for name in models] == [200] * 3
        for name in (*models, *models):
            assert fleet.add(name)[0] == 200
            (server,) = fleet.status()["servers"]
            assert server["occupied_bytes"] <= server["capacity_bytes"]
        measured = {m["name"]: m["footprint_bytes"] for m in fleet.status()["models"]}
        assert all(size > 30 * MIB for size in measured.values()), measured
        assert list(fleet.states().values()).count("READY") < 3
    until(lambda: not engine.containers_of(tmp_path))


# -- fleets that are killed ------------------------------------------------------------------


class Commands:
    """``tritonfleet serve`` and its neighbours as a user calls them, all on one fleet."""

    def __init__(self, folder, image, keep):
        self.folder, self.running = folder, []
        adder_fleet(folder, {"one": "40MiB", "two": "40MiB"})
        file = folder / "fleet.yaml"
        container = json.dumps({"image": image, "pull": "never", "keep": keep})
        file.write_text(
            file.read_text().replace("margin: 0}", f"margin: 0, container: {container}}}")
        )

    def call(self, *arguments):
        command = [sys.executable, "-m", "tritonfleet", *arguments]
        environment = {**os.environ, "TRITONFLEET_STATE_DIR": str(self.folder / "state")}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def serve(self):
        """Returns once it serves."""
        command = [sys.executable, "-m", "tritonfleet", "serve", "--launcher", "container"]
        with (self.folder / "serve.log").open("ab") as log:
            fleet = subprocess.Popen(
                [*command, "-f", str(self.folder / "fleet.yaml")], stdout=log, stderr=log
            )
        self.running.append(fleet)
        until(lambda: self._serves(fleet), 90)
        return fleet

    def _serves(self, fleet):
        assert fleet.poll() is None, (self.folder / "serve.log").read_text()
        return self.call("ls").returncode == 0

    def states(self):
        models = json.loads(self.call("ls", "--json").stdout)["models"]
        return {model["name"]: model["state"] for model in models}

    def kill(self, fleet):
        """Returns once nothing runs any more that it has started itself."""
        children = [child.pid for child in psutil.Process(fleet.pid).children(recursive=True)]
        fleet.kill()
        fleet.wait()
        (self.folder / "state" / "control.json").unlink(missing_ok=True)
        assert gone(children)

    def end(self):
        for fleet in self.running:
            fleet.terminate()
            fleet.wait(60)
        remove(run_folder(self.folder / "state"))  # of one that was killed


@pytest.fixture
def commands(request, tmp_path, cpu_image, bystander, engine):
    commands = Commands(tmp_path, cpu_image, keep=getattr(request, "param", False))
    yield commands
    commands.end()
    for name in engine.containers_of(tmp_path):
        engine.client.containers.get(name).remove(force=True)


def test_a_killed_fleet_leaves_no_container(commands, engine, tmp_path):
    fleet = commands.serve()
    assert len(engine.containers_of(tmp_path)) == 1
    commands.kill(fleet)
    until(lambda: not engine.containers_of(tmp_path))


def test_an_ended_fleet_leaves_no_container(commands, engine, tmp_path):
    fleet = commands.serve()
    fleet.terminate()
    assert fleet.wait(60) == 0
    assert engine.containers_of(tmp_path) == []


@pytest.mark.parametrize("commands", [True], indirect=True, ids=["keep"])
def test_a_kept_server_is_there_for_the_next_fleet_with_its_models(commands, engine, tmp_path):
    fleet = commands.serve()
    assert commands.call("load", "one").returncode == 0
    (name,) = engine.containers_of(tmp_path)
    former = engine.client.containers.get(name).attrs["State"]["StartedAt"]
    commands.kill(fleet)
    commands.serve()
    until(lambda: commands.states()["one"] == "READY")
    assert engine.containers_of(tmp_path) == [name]
    assert engine.client.containers.get(name).attrs["State"]["StartedAt"] == former
    log = (tmp_path / "state" / "logs" / "local.log").read_text()
    assert log.count("successfully loaded 'one'") == 1  # it never went away
