from __future__ import annotations

import pytest

from tests.repo_builder.lint.builders import found, onnx_model, python_model

CACHE = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": "/cache"}


def accelerated(name: str, kind: str = "gpu", **parameters: str) -> str:
    listed = " ".join(f'parameters {{ key: "{k}" value: "{v}" }}' for k, v in parameters.items())
    return (
        f"optimization {{ execution_accelerators {{ {kind}_execution_accelerator: "
        f'[{{ name: "{name}" {listed} }}] }} }}'
    )


@pytest.mark.parametrize(
    ("more", "rules"),
    [
        (accelerated("tensorrt", precision_mode="FP16", **CACHE), []),
        (accelerated("cuda", anything="1"), []),
        (accelerated("openvino", kind="cpu"), []),
        (accelerated("tensort"), ["accelerator"]),
        (accelerated("tensorrt", kind="cpu"), ["accelerator"]),
        (accelerated("tensorrt", precison_mode="FP16", **CACHE), ["accelerator-option"]),
        (accelerated("tensorrt", precision_mode="half", **CACHE), ["accelerator-option"]),
        (accelerated("tensorrt", trt_engine_cache_enable="1"), ["engine-not-kept"]),
    ],
)
def test_accelerators_are_held_against_what_the_backend_knows(tmp_path, more, rules):
    onnx_model(tmp_path, more=more)
    assert found(tmp_path) == rules


def test_other_backends_have_their_own_accelerators(tmp_path):
    python_model(tmp_path, more=accelerated("anything"))
    assert found(tmp_path) == []
