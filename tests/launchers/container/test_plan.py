"""What is decided around a container; an engine that was made up answers."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tritonfleet.errors import ContainerFailed, LauncherUnavailable, PortTaken
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.command import Invocation, Ports
from tritonfleet.launchers.container.plan import Plan, server_pid
from tritonfleet.launchers.container.recipe import CONFIGURATION, INSTANCE, SERVER
from tritonfleet.launchers.container.site import Site
from tritonfleet.launchers.engine.facts import OUT_OF_MEMORY, Container, EngineFacts, Image
from tritonfleet.spec.containers import ContainerSpec

INVOCATION = Invocation("tritonfleet-abc", Ports(1, 2, 3), "s3cret")


class MadeUpEngine:
    """Has every image, and the containers that the test gives it."""

    address = "unix:///made/up.sock"

    def __init__(self) -> None:
        self.facts = EngineFacts()
        self.containers: list[Container] = []
        self.stopped: list[str] = []
        self.removed: list[str] = []
        self.asked: list[tuple[str, str]] = []

    def image(self, name, pull):
        self.asked.append((name, pull))
        return Image(name, "sha256:1")

    def find(self, labels):
        return self.containers

    def stop(self, container, grace_s):
        self.stopped.append(container)

    def remove(self, container):
        self.removed.append(container)


@pytest.fixture
def engine():
    return MadeUpEngine()


@pytest.fixture
def make(tmp_path, engine):
    """A plan for a server on an empty repository."""
    (tmp_path / "repository").mkdir()

    def make(options=None, **spec) -> Plan:
        container = ContainerSpec.model_validate(spec)
        given = LaunchOptions(
            "gpu0", tmp_path / "repository", tmp_path / "state", container=container
        )
        site = Site.of(replace(given, **(options or {})))
        site.folder.mkdir(parents=True, exist_ok=True)
        site.log.parent.mkdir(exist_ok=True)
        return Plan.of(site, engine)

    return make


@pytest.mark.parametrize(
    ("options", "spec", "image"),
    [
        ({"image": "any:1"}, {"image": "own:1"}, "own:1"),
        ({"image": "any:1"}, {}, "any:1"),
        ({"triton_release": "25.01"}, {}, "nvcr.io/nvidia/tritonserver:25.01-py3"),
    ],
)
def test_a_servers_own_image_comes_before_the_settings_and_nvidias(
    make, engine, options, spec, image
):
    make(options, **spec, pull="never")
    assert engine.asked == [(image, "never")]


@pytest.mark.parametrize("version", ["4.9.3", "5.3.2"])
def test_a_podman_that_would_hand_over_no_gpus_is_refused(make, engine, version):
    engine.facts = EngineFacts(podman=True, version=version)
    with pytest.raises(LauncherUnavailable, match=r"without any\. Use Podman 5\.4"):
        make(gpus="all")
    assert engine.asked == []


def test_ports_of_the_fleet_file_are_kept_and_the_others_free(make):
    ports = make(ports={"grpc": 8001}).new_invocation().ports
    assert ports.grpc == 8001
    assert len({ports.http, ports.grpc, ports.metrics}) == 3


def test_an_address_that_this_machine_does_not_have_is_told(make):
    with pytest.raises(ContainerFailed, match=r"at 'address' 192\.0\.2\.1"):
        make(address="192.0.2.1").new_invocation()


@pytest.mark.parametrize(
    ("address", "reached"),
    [("127.0.0.1", "127.0.0.1:1"), ("0.0.0.0", "127.0.0.1:1"), ("::", "[::1]:1")],
)
def test_a_server_that_listens_everywhere_is_reached_here(make, address, reached):
    endpoint = make(address=address).endpoint(replace(INVOCATION, address=address))
    assert endpoint.http == reached
    assert endpoint.pid is None


# -- what is there already -------------------------------------------------------------------


def left_by(plan, **changes) -> Container:
    """A container as the plan would have made it."""
    labels = {INSTANCE: INVOCATION.instance, CONFIGURATION: plan.recipe.configuration}
    container = Container("id1", plan.recipe.name, "running", 0, 0, False, "", labels)
    return replace(container, **changes)


def test_a_container_that_was_kept_is_adopted_when_it_is_as_a_new_one_would_be(make, engine):
    plan = make(keep=True)
    plan.site.note(INVOCATION)
    engine.containers = [left_by(plan)]
    assert plan.adoptable() == (engine.containers[0], INVOCATION)


def test_a_container_is_not_adopted_without_need(make, engine):
    plan = make()
    plan.site.note(INVOCATION)
    engine.containers = [left_by(plan)]
    assert plan.adoptable() is None


@pytest.mark.parametrize(
    "changes",
    [{"status": "exited"}, {"status": "paused"}, {"labels": {INSTANCE: INVOCATION.instance}}],
)
def test_a_container_that_ended_or_is_another_is_not_adopted(make, engine, changes):
    plan = make(keep=True)
    plan.site.note(INVOCATION)
    engine.containers = [left_by(plan, **changes)]
    assert plan.adoptable() is None


def test_a_container_whose_secret_is_lost_is_not_adopted(make, engine):
    plan = make(keep=True)
    engine.containers = [left_by(plan)]
    assert plan.adoptable() is None


def test_what_is_left_is_removed_and_what_runs_is_stopped_before(make, engine):
    plan = make()
    engine.containers = [left_by(plan), left_by(plan, id="id2", status="exited")]
    plan.clear()
    assert engine.stopped == ["id1"]
    assert engine.removed == ["id1", "id2"]


def test_what_was_kept_for_a_server_that_the_fleet_has_no_more_is_removed(make, engine):
    plan = make({"siblings": ("gpu0", "gpu1")})
    labels = [{SERVER: name} for name in ("gpu0", "gpu1", "gpu2")]
    engine.containers = [left_by(plan, id=f"id{i}", labels=each) for i, each in enumerate(labels)]
    plan.clear_strays()
    assert engine.removed == engine.stopped == ["id2"]


def test_a_start_that_knows_no_siblings_removes_nobody(make, engine):
    plan = make()
    engine.containers = [left_by(plan, labels={SERVER: "gpu2"})]
    plan.clear_strays()
    assert engine.removed == []


# -- why it ended ----------------------------------------------------------------------------


def test_a_port_that_tritonserver_found_taken_is_told_with_its_setting(make):
    plan = make()
    plan.site.log.write_text("E1 Socket '127.0.0.1:8000' already in use\n")
    error = plan.ended(1, 0)
    assert isinstance(error, PortTaken)
    assert (error.port, error.setting) == (8000, "container.ports")


def test_a_server_without_enough_memory_is_told_to_have_more(make):
    plan = make()
    plan.site.log.write_text(f"tritonfleet: container x ended, for it {OUT_OF_MEMORY}\n")
    assert "Raise 'memory'" in str(plan.ended(137, 0))


def test_another_end_is_told_with_its_status_and_last_lines_of_this_run_only(make):
    plan = make()
    plan.site.log.write_text("of an earlier run\n")
    start = plan.log_size
    with plan.site.log.open("a") as file:
        file.write("cannot open config\n")
    said = str(plan.ended(1, start))
    assert f"'{plan.recipe.name}': it ended with status 1" in said
    assert said.endswith("cannot open config")
    assert "earlier run" not in said
    assert str(plan.site.log) in said


# -- processes -------------------------------------------------------------------------------


def test_tritonserver_is_found_among_a_containers_processes():
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    child = ["tritonserver", "-c", script, "--id=abc"]
    with subprocess.Popen(
        child, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        assert server_pid(process.pid, "abc") == process.pid
        assert server_pid(os.getpid(), "abc") == process.pid
        assert server_pid(process.pid, "other") is None


def test_a_process_of_another_machine_is_none():
    assert server_pid(2**22 + 1, "abc") is None
    assert server_pid(0, "abc") is None
