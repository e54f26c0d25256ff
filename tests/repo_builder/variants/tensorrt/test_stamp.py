"""Which engines fit which servers."""

from __future__ import annotations

import json

import pytest

from repo_builder.variants.tensorrt.machine import Gpu, Machine
from repo_builder.variants.tensorrt.stamp import (
    ServerFacts,
    mismatch,
    read_stamp,
    stamp,
    tensorrt_of_image,
    write_stamp,
)
from tritonfleet.spec.export import TensorRTVariant

PROFILES = ({"x": ((1, 4), (8, 4), (8, 4))},)
MACHINE = Machine(Gpu("NVIDIA A10", "8.6", "550.54"), "10.13.3.9", platform="linux-x86_64")
HERE = ServerFacts("10.13.3.9", "8.6", "linux-x86_64")


def engine(**fields):
    variant = TensorRTVariant.model_validate({"format": "tensorrt", **fields})
    return stamp(variant, MACHINE, PROFILES)


def test_a_stamp_is_read_as_it_was_written(tmp_path):
    made = engine(precision="fp16", workspace="1GiB", optimization_level=4)
    write_stamp(tmp_path, made)
    assert read_stamp(tmp_path) == made


def test_its_facts_are_plain_json():
    facts = engine(workspace="1GiB").facts()
    assert facts == json.loads(json.dumps(facts))
    assert (facts["tensorrt"], facts["gpu"], facts["driver"]) == (
        "10.13.3.9", "NVIDIA A10", "550.54"
    )  # fmt: skip
    assert facts["workspace_bytes"] == 1 << 30


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"profiles": 3}', '{"profiles": []}'])
def test_an_unreadable_stamp_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "stamp.json").write_text(text)
    assert read_stamp(tmp_path) is None


def test_the_server_it_was_built_for_takes_it():
    assert mismatch(engine(), HERE) is None


def test_nothing_known_is_nothing_wrong():
    assert mismatch(engine(), ServerFacts()) is None


@pytest.mark.parametrize("version", ["10.13.3.8", "10.14.1.48", "10.9.0.34", "11.4.0.106"])
def test_another_version_of_tensorrt_does_not(version):
    assert mismatch(engine(), ServerFacts(version)) == (
        f"it was built with TensorRT 10.13.3.9, the server has {version}"
    )


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("10.14.1", True),
        ("11.4.0", True),
        ("10.13.3.9", True),
        ("10.9.0.34", False),
        ("9.0", False),
    ],
)
def test_a_version_compatible_engine_goes_forward_and_never_back(version, fits):
    assert (mismatch(engine(version_compatible=True), ServerFacts(version)) is None) is fits


def test_a_version_given_in_three_numbers_is_the_same():
    assert mismatch(engine(), ServerFacts("10.13.3")) is None


@pytest.mark.parametrize(
    ("compatibility", "capability", "fits"),
    [
        ("none", "8.6", True),
        ("none", "8.0", False),
        ("none", "9.0", False),
        ("same_compute_capability", "8.6", True),
        ("same_compute_capability", "9.0", False),
        ("ampere_plus", "9.0", True),
        ("ampere_plus", "12.0", True),
        ("ampere_plus", "7.5", False),
    ],
)
def test_the_gpu_decides_by_its_compute_capability(compatibility, capability, fits):
    made = engine(hardware_compatibility=compatibility)
    reason = mismatch(made, ServerFacts(compute_capability=capability))
    assert (reason is None) is fits
    assert fits or "NVIDIA A10 (compute capability 8.6)" in str(reason)


def test_another_platform_does_not():
    assert "linux-aarch64" in str(mismatch(engine(), ServerFacts(platform="linux-aarch64")))


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("25.11-trtllm-python-py3", "10.13.3.9"),
        ("26.07-trtllm-python-py3", "10.14.1.48"),
        ("25.11-py3", None),
        ("24.11-trtllm-python-py3", None),
        ("latest", None),
    ],
)
def test_versions_of_images_are_told_where_they_are_known(tag, version):
    assert tensorrt_of_image(tag) == version
