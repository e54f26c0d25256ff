from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from repo_builder.signature import Signature, Tensor, read_signature
from tests.repo_builder.builders import signature
from tritonfleet.errors import InvalidModelConfig


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ("x FP32 batch 4", "y FP32 batch 3"),
        ("ids INT64 batch sequence, mask INT64 batch sequence", "y FP32 batch sequence 8"),
        ("x FP32 n", "y FP32 n"),
    ],
)
def test_a_batch_that_leads_everywhere_and_is_nowhere_else_can_be_batched(inputs, outputs):
    assert signature(inputs, outputs).batchable


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ("x FP32 1 4", "y FP32 batch 3"),  # a fixed input
        ("x FP32 batch 4", "y FP32 3"),  # an output without
        ("text INT64 texts 8, image FP32 images 3", "y FP32 images texts"),  # two batches
        ("x FP32 batch 4", "y FP32 batch batch"),  # rows against rows
        ("x FP32 batch 4", "y FP32 batch batch+1"),  # hidden in an expression
        ("x FP32 batch 4, y FP32 other 4", "z FP32 batch 4"),
        ("x FP32 ? 4", "y FP32 ? 4"),  # nameless dimensions need not be the same one
        ("x FP32", "y FP32"),  # a scalar has no batch
    ],
)
def test_anything_else_cannot(inputs, outputs):
    assert not signature(inputs, outputs).batchable


def test_a_name_that_only_contains_the_batch_s_name_is_another_dimension():
    assert signature("x FP32 batch 4", "y FP32 batch batches").batchable


def graph(tmp_path, inputs, initializers=()):
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", None])
    body = helper.make_graph([], "g", inputs, [output], list(initializers))
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)]), str(path))
    return path


def test_names_types_and_dimensions_are_read_from_the_artifact(tmp_path):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    path = graph(
        tmp_path,
        [
            helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", 4]),
            helper.make_tensor_value_info("s", TensorProto.STRING, [1]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]),
        ],
        [weight],
    )
    assert read_signature("m", path) == Signature(
        (Tensor("x", "INT64", ("batch", 4)), Tensor("s", "BYTES", (1,))),
        (Tensor("y", "FP16", ("batch", "?")),),
    )


def test_a_type_triton_does_not_know_is_refused_by_name(tmp_path):
    path = graph(tmp_path, [helper.make_tensor_value_info("x", TensorProto.COMPLEX64, [1])])
    with pytest.raises(InvalidModelConfig, match="'x' is a tensor of COMPLEX64"):
        read_signature("m", path)
