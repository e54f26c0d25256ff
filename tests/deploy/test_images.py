"""What is in the images, on a real engine: little, the truth, and nothing of the build."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launchers.processes import LONG_S
from tests.serving import until

ROOT = Path(__file__).parents[2]
SERVER = "tritonfleet/tritonserver-cpu:latest"
FLEET = "tritonfleet/tritonfleet:latest"
pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def images(engine):
    """Both images, brought up to date as ``make image`` does."""
    command = [sys.executable, "scripts/images.py", "--json"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return {image["name"].partition("/")[2]: image for image in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def labels(engine, images):
    return engine.client.images.get(SERVER).labels


@pytest.fixture
def container(engine, images, request):
    """Starts containers that are gone when the test ends."""
    started = []

    def start(image: str, *command: str, **options):
        options = {"read_only": True, "tmpfs": {"/tmp": ""}, "cap_drop": ["ALL"], **options}
        found = engine.client.containers.run(image, command, detach=True, **options)
        started.append(found)
        return found

    yield start
    for found in started:
        found.remove(force=True, v=True)


def output(engine, image: str, script: str, **options) -> str:
    """What a shell in the image says."""
    return engine.client.containers.run(
        image, ["-c", script], entrypoint="bash", remove=True, network_mode="none", **options
    ).decode()


def health(container) -> str:
    container.reload()
    return container.attrs["State"].get("Health", {}).get("Status", "")


def is_healthy(container) -> bool:
    assert container.status != "exited", container.logs(tail=30).decode()
    return health(container) == "healthy"


# -- what is in them -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "most_mb"), [("tritonserver-cpu", 900), ("tritonfleet", 400)])
def test_an_image_is_small(images, name, most_mb):
    assert 0 < images[name]["size_bytes"] <= most_mb * 1_000_000


@pytest.mark.parametrize("image", [SERVER, FLEET])
def test_what_built_an_image_is_not_in_it(engine, images, image):
    script = "type -p gcc g++ cc c++ make cmake pip pip3 git; find / -xdev -name 'pip' -type d"
    assert output(engine, image, f"({script}) 2> /dev/null; true") == ""


@pytest.mark.parametrize("image", [SERVER, FLEET])
def test_an_image_runs_as_a_user_without_rights(engine, images, image):
    assert output(engine, image, "id -u; id -g").split() == ["1000", "1000"]
    writable = "find / -xdev -type d -writable -not -path '/proc/*' -not -path '/dev/*'"
    found = output(engine, image, f"{writable} 2> /dev/null; true").split()
    assert set(found) <= {"/tmp", "/var/tmp", "/run/lock", "/state"}


@pytest.mark.parametrize("image", [SERVER, FLEET])
def test_bytecode_is_compiled_already(engine, images, image):
    """A read-only root could not keep it, and each start would compile anew."""
    script = "$(type -p python || type -p python3) -v -c 'import numpy, asyncio' 2>&1"
    loaded = re.findall(r"code object from (\S+)", output(engine, image, script))
    assert len(loaded) > 50
    assert [path for path in loaded if not path.strip("'").endswith(".pyc")] == []


def test_torch_is_in_neither(engine, images):
    for image in (SERVER, FLEET):
        assert output(engine, image, "find / -xdev -type d -name torch 2> /dev/null; true") == ""


def test_the_labels_of_the_server_tell_the_truth(engine, images, labels):
    library, version = (
        labels[f"io.tritonfleet.onnxruntime.{key}"] for key in ("library", "version")
    )
    trial = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).OrtGetApiBase; print(sys.version[:4])"
    told = output(engine, SERVER, f"python3 -c '{trial}' {library}")
    assert told.split() == [labels["io.tritonfleet.python"]]
    assert library.endswith(f"libonnxruntime.so.{version}")
    assert output(engine, SERVER, f"grep -acF '{version}' {library}").strip() != "0"


def test_the_server_is_laid_out_as_nvidias_image(engine, images, labels):
    script = "cd /opt/tritonserver; type -p tritonserver; ls -d backends/*/* | sort"
    version = labels["io.tritonfleet.onnxruntime.version"]
    assert output(engine, SERVER, script).split() == [
        "/opt/tritonserver/bin/tritonserver",
        f"backends/onnxruntime/libonnxruntime.so.{version}",
        "backends/onnxruntime/libtriton_onnxruntime.so",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_stub",
        "backends/python/triton_python_backend_utils.py",
        "backends/pytorch/model.py",
    ]


def test_every_library_of_the_server_is_found(engine, images):
    script = (
        "find /opt/tritonserver -type f -perm /1 | xargs -n1 ldd 2> /dev/null | grep 'not found'"
    )
    assert output(engine, SERVER, f"{script}; true") == ""


def test_licences_are_in_the_server(engine, images):
    found = output(engine, SERVER, "ls /opt/tritonserver/licenses").split()
    assert found == ["nvidia_pytriton", "onnxruntime", "tritonfleet_onnxruntime"]


# -- nothing of the build --------------------------------------------------------------------


@pytest.mark.parametrize("image", [SERVER, FLEET])
def test_no_argument_of_the_build_shows_in_the_history(engine, images, image):
    """Proxies, indexes and mirrors may hold passwords."""
    told = json.dumps(engine.client.images.get(image).history())
    assert "ENTRYPOINT" in told
    assert not re.search(r"PIP_|_PROXY|MIRROR|BASE_IMAGE", told, re.IGNORECASE)


@pytest.mark.parametrize("image", [SERVER, FLEET])
def test_no_certificate_and_no_setting_of_the_build_is_left(engine, images, image):
    places = (
        "/ca /build /wheels /tools /packages /tmp/* /etc/pip.conf /root/.config /root/.cache "
        "/usr/local/share/ca-certificates/* /usr/local/bin/* /etc/apt/apt.conf.d/*proxy*"
    )
    assert output(engine, image, f"ls -d {places} 2> /dev/null; true", user="0") == ""
    sources = output(
        engine, image, "cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>&1; true"
    )
    assert not re.search(r"://[^/]*@", sources)


# -- the server runs -------------------------------------------------------------------------


def test_a_server_without_arguments_waits_for_a_fleet(container):
    server = container(SERVER, network_mode="none")
    until(lambda: is_healthy(server), LONG_S)
    log = server.logs().decode()
    assert "MODE_EXPLICIT" in log
    assert "/models" in log
    server.stop(timeout=30)
    assert server.wait()["StatusCode"] == 0


def test_a_server_is_healthy_at_the_address_its_arguments_name(container):
    arguments = ["--http-port=9123", "--http-address", "127.0.0.1"]
    server = container(SERVER, *arguments, network_mode="none", init=True)
    until(lambda: is_healthy(server), LONG_S)
    assert server.exec_run("healthcheck").exit_code == 0


def test_a_server_that_listens_nowhere_is_not_healthy(container):
    server = container(SERVER, "sleep", "60", network_mode="none")
    assert server.exec_run("healthcheck").exit_code != 0


def test_a_command_is_the_first_process_itself(container):
    server = container(
        SERVER, "tritonserver", "--id=mine", "--model-repository=/models", network_mode="none"
    )
    told = server.exec_run(["cat", "/proc/1/cmdline"]).output.decode().split("\0")
    assert told[:2] == ["tritonserver", "--id=mine"]


def test_any_user_may_run_it(container):
    server = container(SERVER, network_mode="none", user="4242:4242")
    until(lambda: is_healthy(server), LONG_S)


def restricted(server) -> bool:
    """Whether the index, which the secret guards, is refused to those who do not know it."""
    ask = (
        "import urllib.request as r, urllib.error as e\n"
        "def ask(**h):\n"
        " q = r.Request('http://127.0.0.1:8000/v2/repository/index', b'', h)\n"
        " try: return r.urlopen(q).status\n"
        " except e.HTTPError as x: return x.code\n"
        "print(ask(), ask(**{'tritonfleet-admin': 's3cret'}))"
    )
    told = server.exec_run(["python3", "-c", ask]).output.decode().split()
    return told == ["403", "200"]


def test_a_secret_in_the_environment_restricts_the_apis(container):
    secret = {"TRITONFLEET_ADMIN_SECRET": "s3cret"}
    server = container(SERVER, network_mode="none", environment=secret)
    until(lambda: is_healthy(server), LONG_S)
    assert restricted(server)


def test_a_secret_in_a_file_is_waited_for(container):
    settings = {"TRITONFLEET_ADMIN_SECRET_FILE": "/tmp/secret"}
    server = container(SERVER, network_mode="none", environment=settings)
    assert server.exec_run(["sh", "-c", "echo s3cret > /tmp/secret"]).exit_code == 0
    until(lambda: is_healthy(server), LONG_S)
    assert restricted(server)


def test_a_secret_that_never_comes_is_named(container):
    settings = {
        "TRITONFLEET_ADMIN_SECRET_FILE": "/run/secrets/none",
        "TRITONFLEET_ADMIN_SECRET_PATIENCE_S": "0",
    }
    server = container(SERVER, network_mode="none", environment=settings)
    assert server.wait()["StatusCode"] == 1
    assert "/run/secrets/none, which TRITONFLEET_ADMIN_SECRET_FILE names" in server.logs().decode()


# -- tritonfleet runs ------------------------------------------------------------------------


def test_the_version_is_the_projects(engine, images):
    told = engine.client.containers.run(
        FLEET, ["--version"], remove=True, network_mode="none"
    ).decode()
    assert told.split()[-1] == images["tritonfleet"]["version"]


@pytest.mark.parametrize("module", ["docker", "grpc", "ml_dtypes", "pydantic", "tritonclient.grpc"])
def test_what_was_stripped_can_still_be_imported(engine, images, module):
    assert output(engine, FLEET, f"python -c 'import {module}' && echo fine").strip() == "fine"


def test_envoy_is_in_it(engine, images):
    assert "version:" in output(engine, FLEET, "envoy --version")


def test_without_a_fleet_file_it_says_which_to_name(engine, images):
    told = output(engine, FLEET, "tritonfleet serve 2>&1; true")
    assert told.startswith("error: /fleet/fleet.yaml")
    assert "Traceback" not in told


def test_a_command_of_the_builder_fails_with_a_sentence(engine, images, tmp_path):
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        "servers:\n  - {name: local, capacity: 1GiB}\n"
        "models:\n  tiny:\n    source: {kind: huggingface, path: /nowhere}\n"
    )
    tmp_path.chmod(0o755)
    mounts = {str(tmp_path): {"bind": "/fleet", "mode": "ro"}}
    script = "tritonfleet build --repository /tmp/built/models 2>&1; echo status $?"
    told = output(engine, FLEET, script, volumes=mounts)
    assert "error:" in told
    assert "status 0" not in told
    assert "Traceback" not in told


@pytest.fixture
def state(engine):
    """A volume for a state directory."""
    volume = engine.client.volumes.create()
    yield {volume.name: {"bind": "/state", "mode": "rw"}}
    volume.remove(force=True)


def test_envoy_without_a_fleet_is_not_healthy(state, container):
    envoy = container(FLEET, "envoy", network_mode="none", volumes=state, init=True)
    check = envoy.exec_run("healthcheck")
    assert check.exit_code == 1
    assert b"envoy" in check.output.lower()  # its own check was asked, not a fleet's
