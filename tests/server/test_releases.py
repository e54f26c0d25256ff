"""What is known of NVIDIA's releases, and how images are told apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonfleet.server.releases import (
    ONNX_RUNTIMES,
    RELEASES,
    TRTLLM_IMAGES,
    OfficialImage,
    check_driver,
    data_center_drivers,
    image_tensorrt,
    needed_driver,
    numbers,
    official_image,
    onnx_runtime,
    onnx_runtime_of,
    read_image_name,
)
from tritonfleet.settings import DEFAULT_RELEASE

DIGEST = "@sha256:" + "0" * 64


# -- the table ---------------------------------------------------------------------------------


def test_the_releases_follow_each_other_month_by_month():
    months = [int(year) * 12 + int(month) for year, month in (n.split(".") for n in RELEASES)]
    assert months == list(range(months[0], months[-1] + 1))


@pytest.mark.parametrize("column", ["triton", "cuda", "onnxruntime", "python", "tensorrt"])
def test_no_release_carries_less_than_the_one_before(column):
    told = [numbers(text) for row in RELEASES.values() if (text := getattr(row, column))]
    # A major version alone says that it lies between its neighbours.
    whole = [version for version in told if len(version) > 1]
    assert whole == sorted(whole)
    assert [version[0] for version in told] == sorted(version[0] for version in told)


def test_both_tables_of_onnx_runtimes_agree():
    for name, row in RELEASES.items():
        if row.onnxruntime:
            assert onnx_runtime(row.onnxruntime) == onnx_runtime_of(name), name


def test_every_image_of_the_second_table_is_a_release_of_the_first():
    assert set(TRTLLM_IMAGES) <= set(RELEASES)


def test_the_default_release_is_the_one_whose_flags_were_tried():
    assert DEFAULT_RELEASE in RELEASES and RELEASES[DEFAULT_RELEASE].triton == "2.51.0"


@given(st.lists(st.integers(0, 999), min_size=1, max_size=5))
def test_versions_are_compared_by_their_numbers(parts):
    text = ".".join(map(str, parts))
    assert numbers(text) == numbers(f"{text}+cuda12.6") == numbers(f"{text}-1") == tuple(parts)


@pytest.mark.parametrize("text", ["", "v1", "latest", ".5"])
def test_what_has_no_number_has_none(text):
    assert numbers(text) == ()


# -- images ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "release", "kind"),
    [
        ("nvcr.io/nvidia/tritonserver:25.08-py3", "25.08", "py3"),
        (f"nvcr.io/nvidia/tritonserver:25.08-py3{DIGEST}", "25.08", "py3"),
        ("nvcr.io/nvidia/tritonserver:25.08-py3-min", "25.08", "py3-min"),
        ("nvcr.io/nvidia/tritonserver:25.08-trtllm-python-py3", "25.08", "trtllm-python-py3"),
        ("nvcr.io/nvidia/tritonserver:25.08-vllm-python-py3", "25.08", "vllm-python-py3"),
        ("mirror.example/nvidia/tritonserver:24.10-py3", "24.10", "py3"),
        ("mirror.example:5000/nvidia/tritonserver:24.10-py3", "24.10", "py3"),
        ("tritonserver:24.10-py3", "24.10", "py3"),
    ],
)
def test_an_official_image_tells_its_release(image, release, kind):
    found = read_image_name(image)
    assert (found.release, found.kind) == (release, kind)


@pytest.mark.parametrize(
    "image",
    [
        "",
        "tritonserver",
        "nvcr.io/nvidia/tritonserver",
        "nvcr.io/nvidia/tritonserver:latest",
        f"nvcr.io/nvidia/tritonserver{DIGEST}",
        "nvcr.io/nvidia/tensorrt:25.08-py3",
        "nvcr.io/nvidia/tritonserver:25.08_py3",
        "tritonfleet/tritonserver-cpu:0.1.0",
        "mirror.example:5000/tritonserver",
        "example/not-tritonserver:25.08-py3",
    ],
)
def test_other_images_tell_none(image):
    assert read_image_name(image) is None


@pytest.mark.parametrize("release", RELEASES)
def test_the_image_of_a_release_is_read_back(release):
    assert read_image_name(official_image(release)) == OfficialImage(release, "py3")


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("25.11-trtllm-python-py3", "10.13.3.9"),
        ("26.07-trtllm-python-py3", "10.14.1.48"),
        ("24.11-trtllm-python-py3", "10.6.0"),
        ("25.11-py3", None),
        ("24.09-py3", "10.4.0.26"),
        ("24.09", "10.4.0.26"),
        ("24.09-vllm-python-py3", None),
        ("24.03-trtllm-python-py3", None),
        ("latest", None),
    ],
)
def test_the_tensorrt_of_an_image_is_told_where_it_is_known(tag, version):
    assert image_tensorrt(tag) == version


# -- ONNX Runtime ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "runtime"),
    [("23.11", "1.16"), ("24.02", "1.16"), ("24.10", "1.18"), ("26.08", "1.26"), ("27.01", "1.26")],
)
def test_a_release_brings_the_runtime_of_the_last_change_before_it(release, runtime):
    assert onnx_runtime_of(release).onnxruntime == runtime


@pytest.mark.parametrize("release", ["", "24", "24.13", "2.51.0", "a.b", "23.10"])
def test_what_is_no_known_release_is_refused(release):
    with pytest.raises(ValueError, match=r"release|oldest"):
        onnx_runtime_of(release)


@pytest.mark.parametrize(
    ("version", "limits"),
    [("1.15.1", None), ("1.19.2", "1.18"), ("1.23.0+1d1712fdaf", "1.23"), ("9.0", "1.31")],
)
def test_a_runtime_loads_what_the_last_known_before_it_does(version, limits):
    found = onnx_runtime(version)
    assert (found.onnxruntime if found else None) == limits
    assert found is None or found in ONNX_RUNTIMES


# -- drivers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "release", "level"),
    [
        ("560.35.03", "24.10", "ok"),
        ("595.10", "24.10", "ok"),
        ("550.54.15", "24.10", "warning"),  # CUDA 12 runs from 525 on, some features later
        ("525.60", "24.10", "warning"),
        ("470.57.02", "24.10", "warning"),  # the compatibility package, on data centre GPUs
        ("470.42.01", "24.10", "error"),
        ("510.47", "24.10", "error"),
        ("510.47", "23.11", "warning"),
        ("575.57", "25.08", "error"),  # which its notes ask for, and CUDA 13 does not take
        ("580.65", "25.08", "ok"),
        ("535.104.05", "25.08", "warning"),
        ("570.86", "26.08", "error"),
        ("580.65", "26.08", "ok"),
        ("525.60", "24.11", "ok"),  # whose notes were not read: what its CUDA asks for
    ],
)
def test_a_driver_is_held_against_the_release(driver, release, level):
    found = check_driver(driver, release)
    assert found.level == level, found.message
    assert driver in found.message and release in found.message


def test_a_driver_too_old_is_told_which_release_it_does_for():
    message = check_driver("570.86", "26.08").message
    assert "580 or later" in message and "25.07" in message


@pytest.mark.parametrize("driver", [None, "", "unknown"])
def test_without_a_driver_there_is_something_to_install(driver):
    found = check_driver(driver, "24.10")
    assert found.level == "error" and "560 or later" in found.message


def test_of_a_release_that_nobody_described_nothing_is_said():
    assert check_driver("580.65", "31.01").level == "unknown"


@given(st.sampled_from(sorted(RELEASES)), st.integers(400, 700), st.integers(0, 250))
def test_a_later_driver_never_makes_it_worse_from_the_needed_one_on(release, major, minor):
    wanted = needed_driver(release)
    assert (check_driver(f"{major}.{minor}", release).level == "ok") is (major >= wanted)


def test_older_branches_are_those_of_the_notes():
    assert "545.23" in data_center_drivers("24.10")
    assert data_center_drivers("26.08") == ()
