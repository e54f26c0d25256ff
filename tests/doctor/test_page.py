"""What docs/host.md tells to write is understood."""

from __future__ import annotations

import re
from pathlib import Path

from ruamel.yaml import YAML

from tritonfleet.doctor.checks import CHECKS
from tritonfleet.doctor.cli import doctor
from tritonfleet.doctor.judge_devices import mps_client
from tritonfleet.spec import ServerSpec
from tritonfleet.spec.containers import ContainerSpec

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "host.md").read_text()
YAMLS = [YAML(typ="safe").load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
CONTAINERS = [document["container"] for document in YAMLS if "container" in document]


def test_servers_of_the_page_are_valid():
    [servers] = [document["servers"] for document in YAMLS if "servers" in document]
    for server in servers:
        assert ServerSpec.model_validate(server).container.gpus


def test_the_container_of_the_page_that_is_a_client_of_mps_is_taken_for_one():
    [container] = [ContainerSpec.model_validate(container) for container in CONTAINERS]
    assert mps_client(container.ipc, container.mounts, "/tmp/nvidia-mps")


def test_checks_and_options_of_the_page_exist():
    calls = re.findall(r"^tritonfleet doctor (.*?)(?:  #.*)?$", PAGE, re.M)
    assert len(calls) == 3
    known = {option for parameter in doctor.params for option in parameter.opts}
    for call in calls:
        assert set(re.findall(r"(?<!\S)--?[a-z-]+", call)) <= known
        assert set(re.findall(r"--only (\S+)", call)) <= set(CHECKS)


def test_files_of_the_page_exist():
    files = re.findall(r"deploy/systemd/[\w.-]+", PAGE)
    assert len(files) == 4
    for file in files:
        assert (ROOT / file).exists(), file
