from __future__ import annotations

import pytest
from pydantic import ValidationError

from tritonfleet.spec.export import ExportSpec


def export(*variants, **fields) -> ExportSpec:
    return ExportSpec.model_validate({"variants": list(variants), **fields})


def test_a_variant_is_called_by_what_is_done_to_it():
    spec = export(
        {"format": "onnx"},
        {"format": "onnx", "optimize": "all", "quantize": "dynamic"},
        {"format": "onnx", "precision": "fp16"},
        {"format": "tensorrt", "precision": "bf16"},
        {"format": "tensorrt", "name": "mine"},
    )
    labels = [variant.label for variant in spec.variants]
    assert labels == ["onnx", "onnx-all-int8-dynamic", "onnx-fp16", "tensorrt-bf16", "mine"]


def test_its_gate_goes_by_its_arithmetic():
    spec = export({"format": "onnx", "quantize": "static"}, {"format": "tensorrt"})
    assert [variant.arithmetic for variant in spec.variants] == ["int8", "fp32"]


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ([{"format": "onnx"}, {"format": "onnx"}], "2 variants are called 'onnx': give one a name"),
        (
            [{"format": "onnx", "quantize": "dynamic", "precision": "fp16"}],
            "quantize makes int8 of it",
        ),
        (
            [{"format": "tensorrt", "profiles": [{"batch": {"min": 4, "opt": 2, "max": 8}}]}],
            "min 4, opt 2, max 8 do not ascend",
        ),
        ([{"format": "openvino"}], "does not match any of the expected tags"),
    ],
)
def test_what_cannot_be_meant_is_refused(variants, words):
    with pytest.raises(ValidationError, match=words):
        export(*variants)
