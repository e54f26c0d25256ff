"""Builds engines from end to end, with the names of two releases of TensorRT and no GPU."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from repo_builder.exporters.base import VariantOrder
from repo_builder.signature import read_signature
from repo_builder.variants.tensorrt import TensorRTVariantMaker
from repo_builder.variants.tensorrt.machine import Gpu, Machine
from tests.repo_builder.builders import names, signature
from tests.repo_builder.variants.tensorrt.fake import linear_onnx
from tritonfleet.errors import VariantFailed
from tritonfleet.spec.export import TensorRTVariant

SIGNATURE = signature("x FP32 batch 4", "y FP32 batch 3")
BARE = Machine(missing=("there is no NVIDIA GPU",))


def machine(version):
    return Machine(Gpu("NVIDIA A100-SXM4", "8.0", "550.54"), version, platform="linux-x86_64")


@pytest.fixture
def order(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"a graph")
    (tmp_path / "version").mkdir()

    def made(**fields):
        variant = TensorRTVariant.model_validate({"format": "tensorrt", **fields})
        return VariantOrder(
            "m", variant, tmp_path / "model.onnx", SIGNATURE, tmp_path / "version",
            tmp_path / "cache",
        )  # fmt: skip

    return made


def make(trt, order):
    return TensorRTVariantMaker(lambda: machine(trt.__version__)).make(order)


def test_an_engine_lies_in_the_version_folder_with_its_stamp(trt, order, tmp_path):
    made = make(trt, order())
    assert names(tmp_path / "version") == ["model.plan", "stamp.json"]
    assert made.artifact.read_bytes() == b"an engine"
    assert json.loads((tmp_path / "version" / "stamp.json").read_text()) == made.facts
    assert made.facts["tensorrt"] == trt.__version__
    assert made.facts["profiles"] == [{"x": [[1, 4], [8, 4], [8, 4]]}]


def test_it_takes_and_gives_what_the_onnx_file_does(trt, order):
    assert TensorRTVariantMaker().signature(order(), make(trt, order())) == SIGNATURE


def test_the_types_of_the_file_decide_and_nothing_is_set_that_was_not_asked_for(trt, order):
    make(trt, order())
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert trt.called("network") == [(strongly_typed,)]
    assert trt.called("parse") == [(b"a graph",)]
    assert trt.called("flag") == trt.called("pool") == []
    assert trt.called("shape") == [("x", (1, 4), (8, 4), (8, 4))]


def test_all_that_is_asked_for_is_set(trt, order):
    make(trt, order(workspace="2GiB", optimization_level=5, version_compatible=True,
                    hardware_compatibility="ampere_plus"))  # fmt: skip
    assert trt.called("pool") == [("WORKSPACE", 2 << 30)]
    assert trt.called("builder_optimization_level") == [(5,)]
    assert trt.called("flag") == [("VERSION_COMPATIBLE",)]
    assert [level.label for (level,) in trt.called("hardware_compatibility_level")] == [
        "AMPERE_PLUS"
    ]


def test_each_profile_is_added(trt, order):
    ranges = [{"batch": {"min": 1, "opt": 1, "max": 1}}, {"batch": {"min": 2, "opt": 8, "max": 8}}]
    make(trt, order(profiles=ranges))
    assert [call[1:] for call in trt.called("shape")] == [
        ((1, 4), (1, 4), (1, 4)),
        ((2, 4), (8, 4), (8, 4)),
    ]


def test_fp16_is_written_into_the_file_that_tensorrt_reads(trt, order, monkeypatch, tmp_path):
    def halved(_, source, target):
        target.write_bytes(b"half of " + source.read_bytes())

    monkeypatch.setattr("repo_builder.variants.float16.to_float16", halved)
    make(trt, order(precision="fp16"))
    assert trt.called("parse") == [(b"half of a graph",)]
    assert trt.called("flag") == []
    assert names(tmp_path) == ["cache", "model.onnx", "version"]


def test_bf16_is_a_flag_of_tensorrt_10_and_refused_with_11(trt, order):
    if trt.__version__.startswith("10."):
        make(trt, order(precision="bf16"))
        assert trt.called("flag") == [("BF16",)] and trt.called("network") == [(0,)]
    else:
        with pytest.raises(VariantFailed, match="takes precision from the ONNX file only"):
            make(trt, order(precision="bf16"))


def test_timings_are_kept_for_the_next_build_of_this_version_on_this_gpu(trt, order, tmp_path):
    make(trt, order())
    make(trt, order())
    assert names(tmp_path / "cache") == [f"tensorrt-{trt.__version__}-NVIDIA_A100-SXM4-8.0.timing"]
    assert trt.called("timing cache") == [(b"",), (b"+",)]


def test_timings_that_do_not_fit_are_begun_anew(trt, order, tmp_path):
    make(trt, order())
    trt.stale_cache = True
    make(trt, order())
    assert trt.called("timing cache")[1:] == [(b"+",), (b"",)]
    assert [path.read_bytes() for path in (tmp_path / "cache").iterdir()] == [b"+"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"no_device": True, "says": ["CUDA error 35"]}, "cannot use the GPU; it logged: CUDA err"),
        (
            {"parse_errors": ["no importer for op: Nix", "more"]},
            "does not take its ONNX: no import",
        ),
        ({"refused_profile": True}, "refuses the profile"),
        (
            {"no_engine": True, "says": ["early", "Error 2: out of memory"]},
            "Error 2: out of memory",
        ),
    ],
)
def test_what_goes_wrong_is_told_in_tensorrt_s_own_words(trt, order, tmp_path, fault, reason):
    vars(trt).update(fault)
    with pytest.raises(VariantFailed, match=reason) as failure:
        make(trt, order())
    assert failure.value.model == "m" and "some chatter" not in str(failure.value)
    assert names(tmp_path / "version") == []


def test_without_a_gpu_the_variant_says_what_is_missing_and_tensorrt_is_left_alone(
    order, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # importing it would fail
    with pytest.raises(VariantFailed, match="'tensorrt-fp16' cannot be built on this machine") as e:
        TensorRTVariantMaker(lambda: BARE).make(order(precision="fp16"))
    assert "there is no NVIDIA GPU" in str(e.value) and "m keeps its ONNX" in str(e.value)


def test_mistakes_in_the_fleet_file_are_told_before_what_is_missing(order):
    wrong = order(profiles=[{"bach": {"min": 1, "opt": 1, "max": 8}}])
    with pytest.raises(VariantFailed, match="Did you mean 'batch'"):
        TensorRTVariantMaker(lambda: BARE).make(wrong)


def test_types_that_no_engine_takes_are_refused(order):
    texts = replace(order(), signature=signature("text BYTES batch 1", "y FP32 batch 3"))
    with pytest.raises(VariantFailed, match="'text' is BYTES"):
        TensorRTVariantMaker(lambda: BARE).make(texts)


@pytest.mark.build
def test_fp16_of_a_real_file_keeps_the_types_outside(trt, order, tmp_path):
    onnx = tmp_path / "model.onnx"
    onnx.write_bytes(linear_onnx())
    make(trt, replace(order(precision="fp16"), onnx=onnx))
    ((parsed,),) = trt.called("parse")
    (tmp_path / "half.onnx").write_bytes(parsed)
    assert read_signature("m", tmp_path / "half.onnx") == read_signature("m", onnx)
    assert len(parsed) < len(onnx.read_bytes())
