"""Runs engines on memory that a faithful fake computes in; on a GPU where there is one."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from repo_builder.exporters.base import VariantOrder
from repo_builder.variants.tensorrt import TensorRTRunner, TensorRTVariantMaker
from repo_builder.variants.tensorrt.machine import Gpu, Machine, probe_machine
from repo_builder.variants.tensorrt.stamp import stamp
from tests.repo_builder.builders import signature
from tests.repo_builder.variants.tensorrt.fake import linear_onnx
from tritonfleet.errors import VariantFailed
from tritonfleet.server.engines import write_stamp
from tritonfleet.spec.export import TensorRTVariant

SIGNATURE = signature("x FP32 batch 4", "y FP32 batch 4")
SMALL, LARGE = ({"x": ((low, 4), (high, 4), (high, 4))} for low, high in ((1, 2), (3, 8)))


class Buffer:
    def __init__(self, values):
        self.values = values

    def data_ptr(self):
        return self.values.ctypes.data


class Memory:
    """The host's own memory, in place of a GPU's."""

    stream = 7

    def __init__(self, model):
        pass

    def put(self, values):
        return Buffer(np.array(values))

    def get(self, buffer):
        return buffer.values


def machine(version, capability="8.0"):
    return Machine(Gpu("NVIDIA A100", capability, "550.54"), version, platform="linux-x86_64")


@pytest.fixture
def engine(trt, tmp_path):
    """An engine built with this TensorRT, and how to open it."""

    def opened(*, here=None, **fields):
        variant = TensorRTVariant.model_validate({"format": "tensorrt", **fields})
        (tmp_path / "model.plan").write_bytes(b"an engine")
        write_stamp(tmp_path, stamp(variant, machine(trt.__version__), (SMALL, LARGE)))
        found = here or machine(trt.__version__)
        return TensorRTRunner(
            "m", tmp_path / "model.plan", SIGNATURE, probe=lambda: found, device=Memory
        )

    return opened


def rows(count):
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4)


def test_named_arrays_go_in_and_come_out(engine):
    assert np.array_equal(engine().run({"x": rows(2)})["y"], 2 * rows(2))


def test_each_request_gets_the_profile_that_takes_it(trt, engine):
    runner = engine()
    for count in (1, 8, 5, 2):
        assert runner.run({"x": rows(count)})["y"].shape == (count, 4)
    assert trt.called("profile") == [(1,), (0,)]


def test_a_shape_that_no_profile_takes_is_named(engine):
    with pytest.raises(RuntimeError, match=r"no optimisation profile .* x \[9, 4\]"):
        engine().run({"x": rows(9)})


def test_a_shape_that_the_engine_refuses_is_named(trt, engine):
    trt.refused_shape = True
    with pytest.raises(RuntimeError, match=r"takes no 'x' of shape \[2, 4\]"):
        engine().run({"x": rows(2)})


def test_only_an_engine_that_carries_its_runtime_may_run_code_of_its_own(trt, engine):
    engine()
    assert trt.called("engine_host_code_allowed") == []
    engine(version_compatible=True)
    assert trt.called("engine_host_code_allowed") == [(True,)]


def test_an_engine_of_another_gpu_is_refused_in_words(trt, engine):
    with pytest.raises(VariantFailed, match=r"built on NVIDIA A100 .* server's GPU has 9.0"):
        engine(here=machine(trt.__version__, "9.0"))


def test_without_a_gpu_it_says_what_is_missing(engine):
    with pytest.raises(VariantFailed, match="cannot be run on this machine: no GPU"):
        engine(here=Machine(missing=("no GPU",)))


def test_what_tensorrt_says_of_a_bad_engine_is_quoted(trt, engine):
    trt.no_runtime, trt.says = True, ["magicTag mismatch"]
    with pytest.raises(VariantFailed, match="it logged: magicTag mismatch"):
        engine()


def test_an_engine_without_a_stamp_is_refused(trt, tmp_path):
    (tmp_path / "model.plan").touch()
    with pytest.raises(VariantFailed, match="has no stamp"):
        TensorRTRunner(
            "m", tmp_path / "model.plan", SIGNATURE,
            probe=lambda: machine(trt.__version__), device=Memory,
        )  # fmt: skip


def test_a_pytorch_without_cuda_is_told(engine, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    from repo_builder.variants.tensorrt.runner import CudaDevice

    with pytest.raises(VariantFailed, match="PyTorch has no CUDA"):
        CudaDevice("m")


@pytest.mark.build
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_a_real_engine_computes_what_its_onnx_does(tmp_path, precision):
    here = probe_machine()
    if here.missing:
        pytest.skip(f"a real engine needs more: {'; '.join(here.missing)}")
    sys.modules.pop("tensorrt", None)
    (tmp_path / "model.onnx").write_bytes(linear_onnx())
    (tmp_path / "version").mkdir()
    variant = TensorRTVariant.model_validate({"format": "tensorrt", "precision": precision})
    shapes = signature("x FP32 batch 64", "y FP32 batch 64")
    order = VariantOrder(
        "m", variant, tmp_path / "model.onnx", shapes, tmp_path / "version", tmp_path / "cache"
    )
    made = TensorRTVariantMaker().make(order)
    runner = TensorRTRunner("m", made.artifact, shapes)
    for count in (1, 3, 8):
        x = np.random.default_rng(count).standard_normal((count, 64)).astype(np.float32)
        got = runner.run({"x": x})["y"]
        assert np.allclose(got, x @ np.ones((64, 64), np.float32), atol=0.2)
    assert json.loads((tmp_path / "version" / "stamp.json").read_text())["gpu"] == here.gpu.name
