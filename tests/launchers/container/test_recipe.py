"""What the engine is told, by value."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.command import Invocation, Ports
from tritonfleet.launchers.container.recipe import (
    CONFIGURATION,
    INSTANCE,
    MANAGED,
    SERVER,
    STATE,
    Recipe,
    container_name,
    container_user,
    native_backend,
    onnxruntime_backend,
    state_digest,
)
from tritonfleet.launchers.engine.facts import EngineFacts, Image
from tritonfleet.spec.containers import ContainerSpec

NVIDIA = Image("nvcr.io/nvidia/tritonserver:24.10-py3", "sha256:1")
LIBRARY = "/opt/tritonserver/backends/onnxruntime/libonnxruntime.so.1.31.1"
OURS = Image(
    "tritonfleet/tritonserver-cpu",
    "sha256:2",
    {
        "Labels": {
            "io.tritonfleet.image": "tritonserver-cpu",
            "io.tritonfleet.read-only": "true",
            "io.tritonfleet.onnxruntime.backend": "native",
            "io.tritonfleet.onnxruntime.library": LIBRARY,
            "io.tritonfleet.onnxruntime.version": "1.31.1",
        }
    },
)
DOCKER = EngineFacts()
PODMAN = EngineFacts(podman=True)
ROOTLESS = EngineFacts(rootless=True)
ROOTLESS_PODMAN = EngineFacts(podman=True, rootless=True)
INVOCATION = Invocation("tritonfleet-abc", Ports(9000, 9001, 9002), "s3cret")


def recipe(image=NVIDIA, engine=DOCKER, events=None, **spec):
    container = ContainerSpec.model_validate(spec)
    options = LaunchOptions("gpu0", Path("/data/models"), Path("/state"), container=container)
    user = container_user(container.user, 1234, 1234, engine)
    return Recipe(options, image, user, engine, events)


def body(image=NVIDIA, engine=DOCKER, events=None, **spec):
    return recipe(image, engine, events, **spec).body(replace(INVOCATION, events=events))


def host(image=NVIDIA, engine=DOCKER, **spec):
    return body(image, engine, **spec)["HostConfig"]


# -- what always holds -----------------------------------------------------------------------

specs = st.fixed_dictionaries(
    {},
    optional={
        "gpus": st.sampled_from(["all", ("0",), ("MIG-1a/2", "GPU-ab")]),
        "network": st.sampled_from(["host", "bridge", "mine"]),
        "ipc": st.sampled_from(["private", "host"]),
        "read_only": st.booleans(),
        "memory": st.integers(1, 2**40),
        "cpus": st.floats(0.1, 64),
        "mounts": st.dictionaries(st.just("/weights"), st.just("/opt/weights")),
        "keep": st.booleans(),
        "user": st.sampled_from(["0", "0:0", "77:88"]),
    },
)
engines = st.sampled_from([DOCKER, PODMAN, ROOTLESS, ROOTLESS_PODMAN])
images = st.sampled_from([NVIDIA, OURS])


@given(specs, engines, images, st.sampled_from([None, Path("/state/servers/gpu0/models/events")]))
def test_a_container_never_gets_more_than_it_needs(spec, engine, image, events):
    made = body(image, engine, events, **spec)
    config = made["HostConfig"]
    assert config["Privileged"] is False
    assert config["CapDrop"] == ["ALL"]
    assert "CapAdd" not in config
    assert config["SecurityOpt"] == ["no-new-privileges"]
    assert all(mount["ReadOnly"] and mount["Type"] == "bind" for mount in config["Mounts"])
    assert {STATE, SERVER, MANAGED, INSTANCE, CONFIGURATION} == made["Labels"].keys()
    assert made["User"]


@given(specs, engines, images)
def test_the_secret_is_among_the_arguments_and_nowhere_else(spec, engine, image):
    made = body(image, engine, **spec)
    arguments = made.pop("Cmd")
    assert sum(INVOCATION.admin_secret in argument for argument in arguments) == 2
    assert INVOCATION.admin_secret not in json.dumps(made)


@given(specs, specs)
def test_another_configuration_has_another_digest(first, second):
    one, two = recipe(**first), recipe(**second)
    same = ContainerSpec.model_validate(first) == ContainerSpec.model_validate(second)
    without_effect = one._body(INVOCATION) == two._body(INVOCATION)
    assert (one.configuration == two.configuration) == (same or without_effect)


def test_the_digest_knows_nothing_of_what_each_start_chooses():
    told = {
        recipe().body(replace(INVOCATION, instance=name, admin_secret=name))["Labels"][
            CONFIGURATION
        ]
        for name in ("one", "two")
    }
    assert len(told) == 1


def test_another_image_under_the_same_name_is_another_configuration():
    assert recipe().configuration != recipe(replace(NVIDIA, id="sha256:3")).configuration


def test_other_fixed_ports_are_another_configuration():
    assert recipe().configuration != recipe(ports={"http": 8000}).configuration


# -- where it listens ------------------------------------------------------------------------


def test_on_the_hosts_network_the_server_listens_where_it_is_reached():
    made = body()
    assert "--http-address=127.0.0.1" in made["Cmd"]
    assert {"--http-port=9000", "--grpc-port=9001", "--metrics-port=9002"} <= set(made["Cmd"])
    assert made["HostConfig"]["NetworkMode"] == "host"
    assert made["HostConfig"]["PortBindings"] == {} == made["ExposedPorts"]


def test_in_a_network_of_its_own_tritons_usual_ports_are_published():
    made = body(network="bridge", address="10.0.0.1")
    assert {"--http-address=0.0.0.0", "--http-port=8000"} <= set(made["Cmd"])
    assert made["HostConfig"]["PortBindings"] == {
        "8000/tcp": [{"HostIp": "10.0.0.1", "HostPort": "9000"}],
        "8001/tcp": [{"HostIp": "10.0.0.1", "HostPort": "9001"}],
        "8002/tcp": [{"HostIp": "10.0.0.1", "HostPort": "9002"}],
    }


def test_the_repository_has_a_place_of_its_own():
    made = body(mounts={"/weights": "/opt/weights"})
    assert "--model-repository=/models" in made["Cmd"]
    assert not any(argument.startswith("--backend-directory") for argument in made["Cmd"])
    assert [(each["Source"], each["Target"]) for each in made["HostConfig"]["Mounts"]] == [
        ("/data/models", "/models"),
        ("/weights", "/opt/weights"),
    ]


# -- rights and limits -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "uid", "engine", "inside", "outside"),
    [
        (None, 0, DOCKER, "1000:1000", 1000),
        (None, 501, DOCKER, "501:501", 501),
        (None, 501, ROOTLESS, "0:0", 501),
        (None, 501, ROOTLESS_PODMAN, "501:501", 501),
        ("7", 501, DOCKER, "7:7", 7),
        ("7:8", 501, DOCKER, "7:8", 7),
        ("7:8", 501, ROOTLESS, "7:8", None),
        (None, 501, EngineFacts(remapped=True), "501:501", None),
    ],
)
def test_it_runs_as_us_or_as_nobody_in_particular(wanted, uid, engine, inside, outside):
    user = container_user(wanted, uid, uid, engine)
    assert (str(user), user.host_uid) == (inside, outside)


def test_rootless_podman_maps_us_to_ourselves_unless_told_otherwise():
    assert host(engine=ROOTLESS_PODMAN)["UsernsMode"] == "keep-id"
    assert "UsernsMode" not in host(engine=ROOTLESS_PODMAN, user="5")
    assert "UsernsMode" not in host(engine=PODMAN)


@pytest.mark.parametrize(
    ("image", "wanted", "read_only"),
    [(NVIDIA, None, False), (OURS, None, True), (NVIDIA, True, True), (OURS, False, False)],
)
def test_the_root_is_read_only_where_the_image_says_so(image, wanted, read_only):
    made = host(image, read_only=wanted)
    assert made["ReadonlyRootfs"] is read_only
    assert list(made["Tmpfs"]) == (["/tmp"] if read_only else [])


def test_limits_are_told_in_the_engines_units():
    made = host(memory="2GiB", cpus=1.5, cpuset="0-1", pids_limit=300, shm_size="256MiB")
    assert made["Memory"] == made["MemorySwap"] == 2 * 2**30
    assert made["NanoCpus"] == 1_500_000_000
    assert (made["CpusetCpus"], made["PidsLimit"]) == ("0-1", 300)
    assert made["ShmSize"] == 256 * 2**20


def test_what_is_not_limited_is_not_mentioned():
    assert not {"Memory", "MemorySwap", "NanoCpus", "CpusetCpus", "PidsLimit"} & host().keys()
    assert "ShmSize" not in host(ipc="host")


def test_ulimits_are_the_users_or_with_gpus_those_that_nvidia_advises():
    assert host()["Ulimits"] == []
    assert host(gpus="all", ulimits={})["Ulimits"] == []
    assert host(gpus="all", engine=ROOTLESS)["Ulimits"] == []
    assert {each["Name"]: each["Hard"] for each in host(gpus="all")["Ulimits"]} == {
        "memlock": -1,
        "stack": 67108864,
    }
    assert host(ulimits={"nofile": "10:20"})["Ulimits"] == [
        {"Name": "nofile", "Soft": 10, "Hard": 20}
    ]


# -- GPUs ------------------------------------------------------------------------------------


def test_without_gpus_even_nvidias_own_runtime_hands_none_over():
    made = body()
    assert "NVIDIA_VISIBLE_DEVICES=void" in made["Env"]
    assert "DeviceRequests" not in made["HostConfig"]
    assert "--allow-gpu-metrics=false" in made["Cmd"]


def test_gpus_and_mig_devices_are_handed_over_by_id():
    made = body(gpus=("0", "MIG-6f3c"))
    assert made["HostConfig"]["DeviceRequests"] == [
        {"Capabilities": [["gpu"]], "DeviceIDs": ["0", "MIG-6f3c"]}
    ]
    assert not any(each.startswith("NVIDIA_VISIBLE_DEVICES") for each in made["Env"])
    assert "--allow-gpu-metrics=false" not in made["Cmd"]


def test_all_gpus_are_a_count():
    assert host(gpus="all")["DeviceRequests"] == [{"Capabilities": [["gpu"]], "Count": -1}]


def test_podman_is_told_gpus_by_their_device_interface_names():
    assert host(engine=PODMAN, gpus=("0",))["DeviceRequests"] == [
        {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0"]}
    ]
    assert host(engine=PODMAN, gpus="all")["DeviceRequests"][0]["DeviceIDs"] == [
        "nvidia.com/gpu=all"
    ]


# -- images ----------------------------------------------------------------------------------


def test_our_image_gets_its_native_backend_configured():
    events = Path("/state/servers/gpu0/models/events")
    made = body(OURS, events=events)
    assert f"--backend-config=onnxruntime,library={LIBRARY}" in made["Cmd"]
    assert f"--backend-config=onnxruntime,events={events}" in made["Cmd"]
    assert str(events.parent) in [each["Target"] for each in made["HostConfig"]["Mounts"]]


def test_an_image_says_what_runs_its_onnx_models():
    assert onnxruntime_backend(OURS).startswith("native backend, ONNX Runtime 1.31.1")
    assert NVIDIA.name in onnxruntime_backend(NVIDIA)
    assert native_backend(NVIDIA) is None


def test_what_an_image_and_its_repository_need_comes_last_and_shapes_the_container():
    needy = replace(recipe(), arguments=("--backend-config=tensorrt,version-compatible=true",))
    assert needy.body(INVOCATION)["Cmd"][-1] == needy.arguments[0]
    assert needy.configuration != recipe().configuration


def test_images_that_do_not_know_how_they_are_get_a_health_check():
    check = body(address="127.0.0.1")["Healthcheck"]["Test"]
    assert check[0] == "CMD-SHELL"
    assert "http://127.0.0.1:9000/v2/health/ready" in check[1]
    assert "Healthcheck" not in body(OURS)


# -- names -----------------------------------------------------------------------------------


def test_one_name_for_each_server_and_state_directory(tmp_path):
    assert container_name("gpu0", tmp_path) == container_name("gpu0", tmp_path / "x" / "..")
    others = {container_name("gpu1", tmp_path), container_name("gpu0", tmp_path / "x")}
    assert len({container_name("gpu0", tmp_path), *others}) == 3
    assert container_name("gpu0", tmp_path).endswith(state_digest(tmp_path)[:8])
