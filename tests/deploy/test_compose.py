"""A whole fleet in containers: up, asked, watched by Prometheus, hurt, down without a trace."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy
import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families

from scripts import compose
from tests.demo import DEMO
from tests.launchers.processes import LONG_S
from tests.serving import until
from tritonfleet.ports import Reservation
from tritonfleet.spec import load_fleet

ROOT = Path(__file__).parents[2]
UP_S = 300
PORTS = (
    "TRITONFLEET_HTTP_PORT",
    "TRITONFLEET_GRPC_PORT",
    "TRITONFLEET_CONTROL_PORT",
    "TRITONFLEET_SERVER_HTTP_PORT",
    "TRITONFLEET_SERVER_GRPC_PORT",
    "TRITONFLEET_SERVER_METRICS_PORT",
    "PROMETHEUS_PORT",
)
IMAGES = {
    "TRITONFLEET_SERVER_IMAGE": "tritonserver-cpu",
    "TRITONFLEET_IMAGE": "tritonfleet",
    "PROMETHEUS_IMAGE": "prometheus",
}
TEXT = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["A cat sleeps."]}
DIGIT = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.0] * 64}


def free_ports():
    """Ports that nobody has just now."""
    held = [Reservation("127.0.0.1", 0, name) for name in PORTS]
    try:
        return {name: str(one.port) for name, one in zip(PORTS, held, strict=True)}
    finally:
        for one in held:
            one.release()


def environment(name, **more):
    """What a user would set to have a second project beside another."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("TRITONFLEET_")},
        "COMPOSE_PROJECT_NAME": name,
        **free_ports(),
        **more,
    }


def run(action, variables, *arguments):
    """The script as the Makefile runs it; its exit status and all that it says."""
    command = [sys.executable, str(ROOT / "scripts" / "compose.py"), action, *arguments]
    answer = subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=UP_S, cwd=ROOT
    )
    return answer.returncode, answer.stdout + answer.stderr


class Up:
    """A fleet in containers, as its users see it."""

    def __init__(self, engine, variables):
        self.engine, self.variables = engine, variables
        self.name = variables["COMPOSE_PROJECT_NAME"]
        self.gateway = f"http://127.0.0.1:{variables['TRITONFLEET_HTTP_PORT']}"
        self.grpc = f"127.0.0.1:{variables['TRITONFLEET_GRPC_PORT']}"
        self.control = f"http://127.0.0.1:{variables['TRITONFLEET_CONTROL_PORT']}"
        self.prometheus = f"http://127.0.0.1:{variables['PROMETHEUS_PORT']}"

    def container(self, service):
        return self.engine.client.containers.get(f"{self.name}-{service}-1")

    def kill(self, service):
        """Ends a service's first process as a crash would: Docker thinks of no order to stop."""
        os.kill(self.container(service).attrs["State"]["Pid"], signal.SIGKILL)

    def infer(self, model, tensor=DIGIT):
        body = {"inputs": [tensor]}
        return call(f"{self.gateway}/v2/models/{model}/infer", body)

    def state(self, model):
        _, told, _ = call(f"{self.control}/v1/status")
        return next(one["state"] for one in told["models"] if one["name"] == model)

    def came_to_python(self, work):
        """How many requests did, of those that the work makes."""
        url = f"{self.control}/v1/status"
        before = call(url)[1]["activator"]["requests"]
        work()
        return call(url)[1]["activator"]["requests"] - before

    def query(self, expression):
        """What Prometheus answers, as {labels: value}."""
        url = f"{self.prometheus}/api/v1/query?query={urllib.request.quote(expression)}"
        _, told, _ = call(url)
        result = told["data"]["result"]
        return {frozenset(one["metric"].items()): float(one["value"][1]) for one in result}


def call(url, body=None, timeout=70):
    """(status, JSON, headers) of one exchange; error statuses do not raise."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=timeout) as answer:
            return answer.status, json.loads(answer.read()), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), error.headers


def answering(url):
    """What is there, or None while nobody answers."""
    with contextlib.suppress(OSError, ValueError):
        return call(url)
    return None


@contextlib.contextmanager
def asking(up, model):
    """Asks a model all the time; gives the list of what went wrong."""
    failures, answers, stop = [], [], threading.Event()

    def ask():
        while not stop.wait(0.01):
            try:
                status, told, _ = up.infer(model)
            except OSError as error:
                status, told = 0, str(error)
            answers.append(status)
            if status != 200:
                failures.append((status, told))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        until(lambda: answers, LONG_S)
        yield failures
        known = len(answers)
        until(lambda: len(answers) > known, LONG_S)
    finally:
        stop.set()
        thread.join()


# -- without an engine -----------------------------------------------------------------------------


def test_what_compose_must_know_is_read_from_the_fleet_file():
    told = compose.fleet_variables(DEMO, load_fleet(DEMO))
    assert told["FLEET_FOLDER"] == str(DEMO.parent)
    assert (told["FLEET_NAME"], told["FLEET_SERVER"]) == ("demo.yaml", "local")
    assert int(told["FLEET_SERVER_MEMORY"]) == (400 << 20) + compose.OVERHEAD_BYTES


def test_a_fleet_of_several_servers_is_sent_elsewhere():
    spec = load_fleet(DEMO)
    second = spec.servers[0].model_copy(update={"name": "other"})
    several = spec.model_copy(update={"servers": (*spec.servers, second)})
    with pytest.raises(compose.ComposeFailed, match="--launcher container"):
        compose.fleet_variables(DEMO, several)


def test_a_broken_fleet_file_is_one_clear_error(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text("name: x\nservrs: []\n")
    with pytest.raises(compose.ComposeFailed, match="servrs"):
        compose.read_fleet(file)


@pytest.mark.parametrize("hidden", [".", "fleet.yaml", "models", "models/one/1/model.onnx"])
def test_what_the_containers_cannot_read_is_told_before_anything_starts(tmp_path, hidden):
    tmp_path.chmod(0o755)
    weights = tmp_path / "models" / "one" / "1" / "model.onnx"
    weights.parent.mkdir(parents=True)
    weights.touch()
    (tmp_path / "fleet.yaml").touch()
    volumes = [{"target": "/models", "source": str(tmp_path / "models")}]
    variables = {"FLEET_FOLDER": str(tmp_path), "FLEET_NAME": "fleet.yaml"}
    config = {"services": {"server": {"volumes": volumes}}}
    project = compose.Project("docker", (), variables, config)
    compose.check_readable(project)
    path = tmp_path / hidden
    path.chmod(0o700 if path.is_dir() else 0o600)
    with pytest.raises(compose.ComposeFailed, match=f"user 1000.* cannot read {path}. Let it: chm"):
        compose.check_readable(project)


@pytest.mark.parametrize(
    ("said", "step"),
    [
        ("permission denied while trying to connect to the Docker daemon socket", "usermod"),
        (
            "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?",
            "Start",
        ),
    ],
)
def test_an_engine_that_does_not_answer_is_told_with_the_next_step(
    said, step, tmp_path, monkeypatch
):
    client = tmp_path / "docker"
    client.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CONTAINER_ENGINE", raising=False)
    with pytest.raises(compose.ComposeFailed, match=step):
        compose.find_engine()


def test_a_machine_without_an_engine_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CONTAINER_ENGINE", raising=False)
    with pytest.raises(compose.ComposeFailed, match="make serve"):
        compose.find_engine()


@pytest.mark.parametrize(("said", "told"), [("1.29.2", "too old"), (None, "no Docker Compose")])
def test_compose_must_be_the_second(said, told, tmp_path, monkeypatch):
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\n" + (f"echo {said}" if said else "exit 1"))
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(compose.ComposeFailed, match=told):
        compose.find_compose("docker")


# -- a fleet that is up ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(engine):
    """Every image that is wanted, built from this checkout."""
    if compose.ran(["docker", "compose", "version"]).returncode != 0:
        pytest.skip("Docker's client has no Compose")
    command = [sys.executable, str(ROOT / "scripts" / "images.py")]
    subprocess.run([*command, *IMAGES.values()], check=True, stdout=sys.stderr)
    # By their numbers: the names are others', too, who may build them anew meanwhile.
    get = engine.client.images.get
    return {key: get(f"tritonfleet/{name}:latest").id for key, name in IMAGES.items()}


@pytest.fixture(scope="module")
def variables(images, built):
    """The environment of the project that all tests here share."""
    repository, _ = built
    return environment(f"tf-test-{os.getpid()}", TRITONFLEET_REPOSITORY=str(repository), **images)


def everything(engine):
    """What an engine has, but for images."""
    client = engine.client
    return (
        {one.name for one in client.containers.list(all=True, ignore_removed=True)},
        {one.name for one in client.volumes.list()},
        {one.name for one in client.networks.list()},
    )


def of_project(engine, name):
    """What an engine has of one project."""
    return [{one for one in kind if one.startswith(name)} for kind in everything(engine)]


@pytest.fixture(scope="module")
def up(engine, variables):
    """A fleet that is up; afterwards nothing of it is there."""
    name = variables["COMPOSE_PROJECT_NAME"]
    status, said = run("up", variables)
    try:
        assert status == 0, said
        found = Up(engine, variables)
        assert found.gateway in said
        yield found
    finally:
        status, said = run("down", variables)
        assert status == 0, said
        assert f"{name}-server-1" in said
        assert of_project(engine, name) == [set(), set(), set()]
        assert "nothing was up" in run("down", variables)[1]


pytestmark = [pytest.mark.timeout(UP_S)]


@pytest.mark.docker
def test_every_service_is_confined(up):
    for service in ("server", "tritonfleet", "envoy", "prometheus"):
        attrs = up.container(service).attrs
        host = attrs["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["Memory"] > 0, service
        assert host["RestartPolicy"]["Name"] == "unless-stopped", service
        assert attrs["Config"]["User"].split(":")[0] not in ("", "0", "root"), service
        assert attrs["State"]["Health"]["Status"] == "healthy", service


@pytest.mark.docker
def test_a_model_answers_cold_and_warm_over_http(up):
    call(f"{up.control}/v1/models/minilm/unload", {})
    for residency in ("cold", "warm"):
        status, told, headers = up.infer("minilm", TEXT)
        assert status == 200
        assert told["outputs"][0]["name"] == "embedding"
        assert headers["tritonfleet-residency"] == residency


@pytest.mark.docker
def test_a_model_answers_over_grpc(up):
    with triton.InferenceServerClient(up.grpc) as client:
        image = triton.InferInput("image", [1, 1, 8, 8], "FP32")
        image.set_data_from_numpy(numpy.zeros((1, 1, 8, 8), numpy.float32))
        assert client.infer("digits", [image]).as_numpy("scores").shape == (1, 10)
        names = {one.name for one in client.get_model_repository_index().models}
    assert "gpt2_random" in names


@pytest.mark.docker
def test_the_server_takes_orders_from_the_controller_alone(up):
    url = f"http://127.0.0.1:{up.variables['TRITONFLEET_SERVER_HTTP_PORT']}"
    status, told, _ = call(f"{url}/v2/repository/models/digits/unload", {})
    assert status == 403
    assert "restricted" in told["error"]


@pytest.mark.docker
def test_prometheus_sees_every_part_and_our_numbers(up):
    up.infer("digits")

    def all_up():
        found = up.query("up")
        return found if len(found) == 3 and set(found.values()) == {1.0} else None

    jobs = {dict(labels)["instance"] for labels in until(all_up, LONG_S)}
    assert jobs == {"tritonfleet", "envoy", "triton/local"}
    assert list(up.query("tritonfleet_server_capacity_bytes").values()) == [400 << 20]
    ready = until(lambda: up.query('tritonfleet_model_ready{model="digits"} == 1'), LONG_S)
    assert list(ready.values()) == [1.0]
    assert until(lambda: up.query('nv_inference_count{model="digits"} > 0'), LONG_S)
    assert until(lambda: up.query("envoy_server_live == 1"), LONG_S)


@pytest.mark.docker
def test_our_metrics_are_text_that_prometheus_reads(up):
    with urllib.request.urlopen(f"{up.control}/metrics") as answer:
        families = {one.name for one in text_string_to_metric_families(answer.read().decode())}
    assert {"tritonfleet_models", "tritonfleet_cold_start_wait_seconds"} <= families


@pytest.mark.docker
def test_warm_requests_do_not_notice_that_tritonfleet_is_restarted(up):
    up.infer("digits")
    with asking(up, "digits") as failures:
        up.container("tritonfleet").restart()
        until(lambda: answering(f"{up.control}/v1/status"), LONG_S)
        assert up.state("digits") == "READY"
        assert up.infer("diabetes", {**DIGIT, "name": "none"})[0] == 400  # a cold one is taken
    assert not failures


@pytest.mark.docker
def test_a_server_that_dies_gets_its_models_back(up):
    up.infer("digits")
    before = up.container("server").attrs["State"]["StartedAt"]
    up.kill("server")
    until(lambda: up.container("server").attrs["State"]["StartedAt"] != before, LONG_S)
    until(lambda: up.infer("digits")[0] == 200, LONG_S)
    assert up.state("digits") == "READY"


@pytest.mark.docker
def test_an_envoy_that_dies_comes_back_with_all_it_knew(up):
    up.infer("digits")
    until(lambda: not up.came_to_python(lambda: up.infer("digits")), LONG_S)
    up.kill("envoy")
    assert not up.came_to_python(lambda: until(lambda: _asked(up, "digits"), LONG_S))


def _asked(up, model):
    with contextlib.suppress(OSError):
        return up.infer(model)
    return None


@pytest.mark.docker
def test_up_again_changes_nothing(up):
    before = {one.id for one in up.engine.client.containers.list()}
    status, said = run("up", up.variables)
    assert status == 0, said
    names = {f"{up.name}-{each}-1" for each in ("server", "tritonfleet", "envoy", "prometheus")}
    now = {one.id for one in up.engine.client.containers.list() if one.name in names}
    assert now <= before


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.docker
def test_a_taken_port_is_told_before_anything_starts(engine, variables):
    mine = {**variables, **free_ports(), "COMPOSE_PROJECT_NAME": f"tf-taken-{os.getpid()}"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mine["TRITONFLEET_SERVER_GRPC_PORT"] = str(port)
        status, said = run("up", mine)
    assert status == 1
    assert f"127.0.0.1:{port}" in said
    assert "TRITONFLEET_SERVER_GRPC_PORT" in said
    assert of_project(engine, mine["COMPOSE_PROJECT_NAME"]) == [set(), set(), set()]


@pytest.mark.docker
def test_a_failed_start_shows_the_end_of_the_log_and_leaves_nothing(engine, variables, tmp_path):
    tls = "access:\n  tls: {certificate: no.pem, private_key: no.pem}\n"
    (tmp_path / "fleet.yaml").write_text(DEMO.read_text() + tls)
    tmp_path.chmod(0o755)
    mine = {**variables, **free_ports(), "COMPOSE_PROJECT_NAME": f"tf-failed-{os.getpid()}"}
    status, said = run("up", mine, "--fleet", str(tmp_path / "fleet.yaml"))
    assert status == 1
    assert "no.pem" in said
    assert "tritonfleet-1" in said
    assert of_project(engine, mine["COMPOSE_PROJECT_NAME"]) == [set(), set(), set()]


@pytest.mark.docker
def test_an_empty_repository_is_told_before_anything_starts(engine, variables, tmp_path):
    mine = {**variables, **free_ports(), "COMPOSE_PROJECT_NAME": f"tf-empty-{os.getpid()}"}
    status, said = run("up", {**mine, "TRITONFLEET_REPOSITORY": str(tmp_path)})
    assert status == 1
    assert "make build-repo" in said
    assert of_project(engine, mine["COMPOSE_PROJECT_NAME"]) == [set(), set(), set()]


@pytest.mark.docker
def test_a_gpu_is_handed_over_by_its_id(images, monkeypatch):
    monkeypatch.delenv("TRITONFLEET_SERVER_IMAGE", raising=False)
    project = compose.Project.of("docker", "MIG-1234", {})
    server = project.config["services"]["server"]
    assert server["image"].startswith("nvcr.io/nvidia/tritonserver:24.10")
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == ["MIG-1234"]
