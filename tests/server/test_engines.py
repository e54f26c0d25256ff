"""Which engines fit which servers."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonfleet.server.engines import (
    ServerFacts,
    Stamp,
    mismatch,
    plan_version,
    read_stamp,
    same_version,
)

MADE = Stamp(
    "10.13.3.9", "NVIDIA A10", "8.6", "550.54", "linux-x86_64", "fp16",
    ({"x": ((1, 4), (8, 4), (8, 4))},),
)  # fmt: skip
HERE = ServerFacts("10.13.3.9", "8.6", "linux-x86_64")
VERSIONS = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(
    lambda parts: ".".join(map(str, parts))
)


def header(*version, tag=b"ftrt", layout=0):
    return struct.pack("<4sI16x4B", tag, layout, *version)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"profiles": 3}', '{"profiles": []}'])
def test_an_unreadable_stamp_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "stamp.json").write_text(text)
    assert read_stamp(tmp_path) is None


def test_the_server_it_was_built_for_takes_it():
    assert mismatch(MADE, HERE) is None


def test_nothing_known_is_nothing_wrong():
    assert mismatch(MADE, ServerFacts()) is None


@pytest.mark.parametrize("version", ["10.13.3.8", "10.14.1.48", "10.9.0.34", "11.4.0.106"])
def test_another_version_of_tensorrt_does_not(version):
    assert mismatch(MADE, ServerFacts(version)) == (
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
    made = replace(MADE, version_compatible=True)
    assert (mismatch(made, ServerFacts(version)) is None) is fits


def test_a_version_given_in_three_numbers_is_the_same():
    assert mismatch(MADE, ServerFacts("10.13.3")) is None


@given(VERSIONS, VERSIONS)
def test_of_two_versions_a_compatible_engine_fits_at_least_one_way(first, second):
    def fits(built, there):
        stamp = replace(MADE, tensorrt=built, version_compatible=True)
        return mismatch(stamp, ServerFacts(there)) is None

    assert fits(first, second) or fits(second, first)
    assert (fits(first, second) and fits(second, first)) is same_version(first, second)


@given(VERSIONS, st.integers(0, 30))
def test_a_version_is_the_same_with_one_number_more(version, more):
    assert same_version(version, f"{version}.{more}")
    assert same_version(f"{version}+cuda12.6", version)


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
    made = replace(MADE, hardware_compatibility=compatibility)
    reason = mismatch(made, ServerFacts(compute_capability=capability))
    assert (reason is None) is fits
    assert fits or "NVIDIA A10 (compute capability 8.6)" in str(reason)


def test_another_platform_does_not():
    assert "linux-aarch64" in str(mismatch(MADE, ServerFacts(platform="linux-aarch64")))


def test_an_engine_tells_its_version_in_its_first_bytes(tmp_path):
    plan = tmp_path / "model.plan"
    plan.write_bytes(header(10, 13, 3, 9) + b"the engine")
    assert plan_version(plan) == "10.13.3.9"


@pytest.mark.parametrize(
    "content", [b"", header(10, 0, 0, 0)[:-1], header(1, 2, 3, 4, tag=b"ptrt"),
                header(1, 2, 3, 4, layout=239), b"version https://git-lfs.github.com/spec/v1"],
)  # fmt: skip
def test_what_is_no_engine_of_a_known_layout_tells_none(tmp_path, content):
    (tmp_path / "model.plan").write_bytes(content)
    assert plan_version(tmp_path / "model.plan") is None


def test_a_missing_engine_tells_none(tmp_path):
    assert plan_version(tmp_path / "model.plan") is None
