"""What a fleet file may say of a container, and what it may not."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tritonfleet.spec.containers import ContainerSpec


def test_the_defaults_are_the_safe_ones():
    spec = ContainerSpec()
    assert (spec.address, spec.network, spec.ipc) == ("127.0.0.1", "host", "private")
    assert (spec.gpus, spec.keep, spec.restart) == ((), False, "no")


@pytest.mark.parametrize(
    "gpus",
    ["all", ["0"], ["0:1"], ["GPU-8a5c9f3e-0b0f-4a51"], ["MIG-8a5c9f3e"], ["MIG-GPU-8a5c/7/0"]],
)
def test_gpus_are_named_as_nvidia_smi_does(gpus):
    assert ContainerSpec(gpus=gpus).gpus in ("all", tuple(gpus))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gpus": ["first"]}, "gpus"),
        ({"user": "root"}, "user"),
        ({"ulimits": {"nofile": "many"}}, "ulimits"),
        ({"mounts": {"/here": "there"}}, "mounts"),
        ({"mounts": {"/here": "/models/"}}, "where the model repository is mounted"),
        ({"network": "none"}, "nobody could reach the server"),
        ({"network": "container:x"}, "network"),
        ({"restart": "always"}, "needs 'keep: true'"),
        ({"environment": {"NVIDIA_VISIBLE_DEVICES": "all"}}, "say in 'gpus'"),
        ({"privileged": True}, "privileged"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        ContainerSpec.model_validate(wrong)


def test_a_container_that_is_kept_may_be_restarted_by_its_engine():
    assert ContainerSpec(keep=True, restart="unless-stopped").restart == "unless-stopped"
