"""Which GPUs a machine has, and which a server gets."""

from __future__ import annotations

import sys

import pytest

from tritonfleet.launchers.gpus import (
    HostGpu,
    chosen_gpus,
    compute_capabilities,
    host_gpus,
    parse_gpus,
)

SAID = """\
0, GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77, 8.6, 580.65.06
1, GPU-c6d4f1ef-42e4-7de3-91c7-45d71c87eb3f, 9.0, 580.65.06
"""
A10, H100 = GPUS = parse_gpus(SAID)


def test_each_row_is_a_gpu():
    assert HostGpu("0", "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "8.6", "580.65.06") == A10
    assert compute_capabilities(GPUS) == ("8.6", "9.0")


@pytest.mark.parametrize("text", ["", "No devices were found\n", "0, GPU-1, [N/A], 580.65\n"])
def test_what_is_no_gpu_is_none(text):
    assert parse_gpus(text) == ()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("all", GPUS),
        (("0",), (A10,)),
        (("1", "0"), GPUS),
        ((H100.uuid,), (H100,)),
        (("1:0", "1:1"), (H100,)),
        (("MIG-3d0a3cd2",), GPUS),  # of which GPU is not said
        (("0", "MIG-3d0a3cd2"), GPUS),
        ((), ()),
    ],
)
def test_a_server_gets_those_it_names(wanted, found):
    assert chosen_gpus(GPUS, wanted) == found


def test_nvidia_smi_is_asked():
    said = (sys.executable, "-c", f"print({SAID!r}, end='')")
    assert host_gpus(said) == GPUS


@pytest.mark.parametrize(
    "command", [("no-such-program",), (sys.executable, "-c", "raise SystemExit(9)")]
)
def test_a_machine_without_nvidia_smi_has_none(command):
    assert host_gpus(command) == ()
