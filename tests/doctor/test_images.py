"""Images and the driver; what an engine file needs is the launcher's to know, and tested there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.doctor.builders import container, plain_gpus
from tritonfleet.doctor.facts import Fit, Nvidia
from tritonfleet.doctor.images import image_of, judge_fit
from tritonfleet.settings import Settings

NVIDIA = Nvidia(True, True, program=True, driver="560.35.03", gpus=plain_gpus())


def settings(tmp_path, **given) -> Settings:
    return Settings(repository=tmp_path, **given)


def test_a_server_names_its_image_or_takes_that_of_the_settings_or_of_the_release():
    assert image_of(container(image="mine"), Settings(image="ours")) == "mine"
    assert image_of(container(), Settings(image="ours")) == "ours"
    released = Settings(triton_release="25.06")
    assert image_of(container(), released) == "nvcr.io/nvidia/tritonserver:25.06-py3"


@pytest.mark.parametrize(
    ("release", "driver", "does"),
    [
        ("24.10", "560.35.03", True),
        ("24.10", "520.61.05", False),
        ("25.08", "560.35.03", False),
        ("25.08", "580.65.06", True),
    ],
)
def test_a_release_asks_for_a_driver(tmp_path, release, driver, does):
    nvidia = replace(NVIDIA, driver=driver)
    server = container(gpus=["0"])
    fit = judge_fit(server, settings(tmp_path, triton_release=release), {}, nvidia)
    assert (fit.mismatch is None) is does


def test_a_driver_that_barely_does_is_remarked_on(tmp_path):
    server, nvidia = container(gpus=["0"]), replace(NVIDIA, driver="535.161.08")
    fit = judge_fit(server, settings(tmp_path), {}, nvidia)
    assert fit.mismatch is None
    assert any("535.161.08" in remark for remark in fit.remarks)


def test_no_driver_matters_without_a_gpu(tmp_path):
    old = replace(NVIDIA, driver="390.157")
    assert judge_fit(container(), settings(tmp_path), {}, old) == Fit("24.10")


def test_a_release_that_the_image_tells_of_itself_counts(tmp_path):
    config = {"Labels": {"io.tritonfleet.triton.release": "25.08"}}
    server = container(gpus=["0"], image="mirror.example/ours:latest")
    fit = judge_fit(server, settings(tmp_path), config, NVIDIA)
    assert fit.mismatch is not None
    assert "25.08" in fit.mismatch


@pytest.mark.parametrize(("release", "does"), [("24.10", True), ("25.06", False)])
def test_a_gpu_may_be_too_old_for_a_release(tmp_path, release, does):
    pascal = tuple(replace(gpu, compute_capability="6.1") for gpu in plain_gpus())
    nvidia = replace(NVIDIA, driver="580.65.06", gpus=pascal)
    server = container(gpus=["0"])
    fit = judge_fit(server, settings(tmp_path, triton_release=release), {}, nvidia)
    assert (fit.mismatch is None) is does
