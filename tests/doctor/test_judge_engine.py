from __future__ import annotations

from dataclasses import replace

import pytest

from tests.doctor.builders import GIB, statuses
from tritonfleet.doctor.facts import Engine, Fit, Image
from tritonfleet.doctor.judge_engine import (
    ImageWish,
    Toolkit,
    judge_engine,
    judge_image,
    judge_toolkit,
)

DOCKER = Engine(
    "unix:///var/run/docker.sock",
    version="20.10.24",
    api_version="1.41",
    storage_driver="overlay2",
    cgroup="cgroup v2, systemd",
    runtimes=("io.containerd.runc.v2", "runc"),
    architecture="x86_64",
)
CGROUPFS = replace(DOCKER, cgroup="cgroup v1, cgroupfs")
PODMAN = replace(DOCKER, address="unix:///run/podman/podman.sock", kind="Podman", version="4.3.1")
TOOLKIT = Toolkit("NVIDIA Container Toolkit CLI version 1.17.4", hook=False, cdi_specs={})
NO_TOOLKIT = Toolkit(None, hook=False, cdi_specs={})
CDI = """
cdiVersion: 0.5.0
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: "0"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: all
- name: 1:0
kind: nvidia.com/gpu
"""


def the_only(findings):
    [finding] = findings
    return finding


# -- engine ----------------------------------------------------------------------------------


def test_an_engine_that_answers_is_ok():
    finding = the_only(judge_engine(DOCKER, "debian"))
    assert finding.status == "ok"
    assert finding.found == "Docker 20.10.24, API 1.41, overlay2, cgroup v2, systemd"


@pytest.mark.parametrize(
    ("problem", "step"),
    [
        ("no sdk", "pip install 'tritonfleet[container]'"),
        ("no socket", "sudo systemctl enable --now docker"),
        ("no permission", "usermod -aG docker"),
        ("no answer", "systemctl restart docker"),
    ],
)
def test_each_reason_why_an_engine_is_out_of_reach_has_its_next_step(problem, step):
    finding = the_only(judge_engine(Engine("unix:///x.sock", problem, "why"), "debian"))
    assert finding.status == "failed"
    assert any(step in one for one in finding.advice)


def test_the_group_docker_is_never_recommended_without_its_price():
    finding = the_only(judge_engine(Engine("unix:///x.sock", "no permission", "why"), "debian"))
    assert all("root" in step for step in finding.advice if "usermod" in step)


@pytest.mark.parametrize(("api", "status"), [("1.40", "failed"), ("1.41", "ok"), ("1.100", "ok")])
def test_an_api_of_before_docker_20_10_is_too_old(api, status):
    assert statuses(judge_engine(replace(DOCKER, api_version=api), "debian")) == [status]


def test_a_storage_driver_that_copies_images_is_a_warning():
    assert statuses(judge_engine(replace(DOCKER, storage_driver="vfs"), "debian")) == [
        "ok",
        "warning",
    ]


def test_an_engine_that_cannot_limit_memory_is_a_warning():
    lacks = replace(DOCKER, warnings=("WARNING: No memory limit support", "WARNING: bridge"))
    assert statuses(judge_engine(lacks, "debian")) == ["ok", "warning"]


# -- toolkit ---------------------------------------------------------------------------------


def test_no_toolkit_is_needed_without_gpus():
    assert statuses(judge_toolkit(DOCKER, NO_TOOLKIT, {}, "debian")) == ["not needed"]


def test_a_missing_toolkit_is_installed_and_made_known():
    finding = the_only(judge_toolkit(DOCKER, NO_TOOLKIT, {"a": ("0",)}, "redhat"))
    assert finding.status == "failed"
    assert "sudo dnf install -y nvidia-container-toolkit" in finding.advice
    assert "sudo nvidia-ctk runtime configure --runtime=docker" in finding.advice


def test_docker_must_know_the_toolkit():
    unknown = the_only(judge_toolkit(DOCKER, TOOLKIT, {"a": ("0",)}, "debian"))
    assert unknown.status == "failed"
    assert unknown.advice[-1] == "sudo systemctl restart docker"
    configured = replace(CGROUPFS, runtimes=("nvidia", "runc"))
    assert statuses(judge_toolkit(configured, TOOLKIT, {"a": ("0",)}, "debian")) == ["ok"]
    hooked = replace(TOOLKIT, hook=True)
    assert statuses(judge_toolkit(CGROUPFS, hooked, {"a": ("0",)}, "debian")) == ["ok"]


def test_what_an_engine_knows_that_does_not_answer_is_not_known():
    lost = Engine("unix:///x.sock", "no answer", "why")
    assert statuses(judge_toolkit(lost, TOOLKIT, {"a": ("0",)}, "debian")) == ["warning"]
    assert statuses(judge_toolkit(lost, NO_TOOLKIT, {"a": ("0",)}, "debian")) == ["failed"]


def test_gpus_that_a_reload_of_systemd_takes_away_are_warned_of():
    configured = replace(DOCKER, runtimes=("nvidia", "runc"))
    findings = judge_toolkit(configured, TOOLKIT, {"a": ("0",)}, "debian")
    assert statuses(findings) == ["ok", "warning"]
    assert "daemon-reload" in findings[1].found


def test_a_rootless_docker_is_configured_by_its_user():
    rootless = replace(DOCKER, rootless=True)
    finding = the_only(judge_toolkit(rootless, TOOLKIT, {"a": ("0",)}, "debian"))
    assert "systemctl --user restart docker" in finding.advice


@pytest.mark.parametrize(
    ("gpus", "status"),
    [(("0",), "ok"), (("1:0",), "ok"), ("all", "ok"), (("1",), "failed"), (("MIG-x",), "failed")],
)
def test_podman_hands_over_what_a_device_specification_names(gpus, status):
    toolkit = replace(TOOLKIT, cdi_specs={"/etc/cdi/nvidia.yaml": CDI})
    assert statuses(judge_toolkit(PODMAN, toolkit, {"a": gpus}, "debian")) == [status]


def test_podman_without_a_device_specification_gets_one_generated():
    other = replace(TOOLKIT, cdi_specs={"/etc/cdi/other.yaml": "kind: vendor.com/net"})
    finding = the_only(judge_toolkit(PODMAN, other, {"a": ("0",)}, "debian"))
    assert finding.status == "failed"
    assert finding.advice == ("sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",)


# -- images ----------------------------------------------------------------------------------

NAME = "nvcr.io/nvidia/tritonserver:24.10-py3"
WISH = ImageWish(NAME, "gpu0", "missing", Fit("24.10"))
MISFIT = Fit("24.10", "bert was built with 10.13")


def having(architecture="amd64"):
    return replace(DOCKER, images={NAME: Image(18 * GIB, architecture, {})})


def test_an_image_that_is_here_is_ok():
    finding = the_only(judge_image(having(), WISH))
    assert finding.status == "ok"
    assert finding.found == f"{NAME}: 18 GiB, amd64, Triton release 24.10"


def test_an_image_that_is_not_here_is_fetched_at_the_start_or_before():
    finding = the_only(judge_image(DOCKER, WISH))
    assert finding.status == "warning"
    assert finding.advice == (f"docker pull {NAME}",)


def test_an_image_that_may_not_be_fetched_must_be_here():
    assert statuses(judge_image(DOCKER, replace(WISH, pull="never"))) == ["failed"]


def test_our_own_images_are_built_and_not_fetched():
    finding = the_only(
        judge_image(DOCKER, ImageWish("tritonfleet/tritonserver-cpu", "a", "missing", Fit()))
    )
    assert (finding.status, finding.advice) == ("failed", ("make image",))


def test_an_image_of_another_architecture_fails():
    finding = the_only(judge_image(having("arm64"), WISH))
    assert finding.status == "failed"
    assert "--platform=linux/amd64" in finding.advice[0]


def test_an_image_that_does_not_fit_the_repository_fails_in_the_launchers_words():
    finding = the_only(judge_image(having(), replace(WISH, fit=MISFIT)))
    assert finding.status == "failed"
    assert "bert was built with 10.13" in finding.found


def test_what_else_there_is_to_say_of_an_image_is_a_warning():
    assert statuses(judge_image(having(), replace(WISH, fit=Fit(remarks=("driver",))))) == [
        "ok",
        "warning",
    ]


def test_the_images_of_an_engine_that_does_not_answer_are_not_known():
    lost = Engine("unix:///x.sock", "no answer", "why")
    assert statuses(judge_image(lost, WISH)) == ["warning"]


def test_commands_for_another_engine_name_it():
    elsewhere = replace(DOCKER, address="tcp://10.0.0.5:2376")
    finding = the_only(judge_image(elsewhere, WISH))
    assert finding.advice == (f"docker -H tcp://10.0.0.5:2376 pull {NAME}",)
    assert the_only(judge_image(PODMAN, WISH)).advice == (f"podman pull {NAME}",)


def test_an_image_known_not_to_fit_is_not_worth_fetching():
    finding = the_only(judge_image(DOCKER, replace(WISH, fit=MISFIT)))
    assert finding.status == "failed"
    assert finding.advice == ()
