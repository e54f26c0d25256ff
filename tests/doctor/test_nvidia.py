"""What nvidia-smi tells, as recorded in its documentation and in public; no GPU was at hand."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doctor.builders import MIB, plain_gpus, sample, sliced_gpus
from tritonfleet.doctor.nvidia import (
    Device,
    MigDevice,
    find_device,
    parse_log,
    with_capabilities,
    with_names,
)

LARGE = "MIG-e243b789-88dd-5d74-bf9e-74a65024ef0d"
SMALL = "MIG-f6c30480-1419-5316-91d7-b32c06559be2"


def test_driver_memory_and_modes_are_read():
    log = parse_log(sample("two_gpus.xml"))
    first, second = log.gpus
    assert log.driver == "560.35.03"
    assert (first.index, first.name) == (0, "NVIDIA L40S")
    assert (first.total_bytes, first.free_bytes) == (46068 * MIB, 45469 * MIB)
    assert (first.persistence, second.persistence) == (True, False)
    assert (first.ecc, second.ecc) == (True, False)
    assert (first.compute_mode, second.compute_mode) == ("Default", "Exclusive_Process")


def test_errors_since_the_boot_count_and_those_of_all_times_do_not():
    first, second = plain_gpus()
    assert (first.uncorrectable_errors, second.uncorrectable_errors) == (0, 2)
    assert (first.repair_pending, second.repair_pending) == (False, True)


def test_a_gpu_that_cannot_be_sliced_is_neither_sliced_nor_not():
    assert [gpu.mig for gpu in plain_gpus()] == [None, None]


def test_slices_have_their_memory_from_one_answer_and_their_names_from_the_other():
    sliced, whole = sliced_gpus()
    assert (sliced.mig, whole.mig) == (True, False)
    assert sliced.free_bytes is None
    assert sliced.mig_devices == (
        MigDevice(0, 19968 * MIB, 19942 * MIB, "3g.20gb", LARGE),
        MigDevice(1, 4864 * MIB, 4851 * MIB, "1g.5gb", SMALL),
    )
    assert whole.mig_devices == ()


def test_slices_that_the_listing_leaves_out_stay_without_a_name():
    [sliced, _] = with_names(sliced_gpus(), "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)\n")
    assert [part.index for part in sliced.mig_devices] == [0, 1]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("1", "GPU 1, NVIDIA A100-SXM4-40GB"),
        ("GPU-f175d98b-41b4-9b45-e6b4-881c9bf5b527", "GPU 1, NVIDIA A100-SXM4-40GB"),
        ("0:1", "MIG 1g.5gb 0:1"),
        ("MIG-f6c30480-1419-5316-91d7-b32c06559be2", "MIG 1g.5gb 0:1"),
    ],
)
def test_a_device_is_found_by_each_of_its_names(wanted, name):
    device = find_device(sliced_gpus(), wanted)
    assert isinstance(device, Device)
    assert device.name == name


@pytest.mark.parametrize("wanted", ["2", "0:2", "1:0", "GPU-0", "MIG-0"])
def test_a_device_that_is_not_there_is_not_found(wanted):
    assert find_device(sliced_gpus(), wanted) is None


def test_compute_capabilities_are_added_where_the_driver_knows_the_field():
    told = with_capabilities(plain_gpus(), "0, 8.9\n1, 8.9\n")
    assert [gpu.compute_capability for gpu in told] == ["8.9", "8.9"]
    unknown = 'Field "compute_cap" is not a valid field to query.\n'
    assert [gpu.compute_capability for gpu in with_capabilities(plain_gpus(), unknown)] == [
        None
    ] * 2


@pytest.mark.parametrize(
    "text",
    ["", "No devices were found", "<html/>", "NVIDIA-SMI has failed because it"],
)
def test_an_answer_that_is_no_log_is_told_as_such(text):
    with pytest.raises(ValueError, match="nvidia-smi -q -x answers"):
        parse_log(text)


@given(st.text())
def test_no_text_does_worse_than_being_refused(text):
    with contextlib.suppress(ValueError):
        parse_log(text)
    with_names(sliced_gpus(), text)
    with_capabilities(plain_gpus(), text)
