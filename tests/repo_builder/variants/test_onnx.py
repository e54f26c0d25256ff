from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from repo_builder import onnx_files
from repo_builder.exporters.base import VariantOrder
from repo_builder.signature import Signature, Tensor
from repo_builder.variants import onnx as variants
from repo_builder.variants.onnx import OnnxVariantMaker, steps
from tests.repo_builder.builders import names, signature
from tests.repo_builder.variants.graphs import (
    adder,
    convolutional,
    images,
    order,
    tokens,
    transformer_like,
)
from tritonfleet.errors import VariantFailed
from tritonfleet.spec.export import OnnxVariant

TOKENS = tuple(tokens(length=length) for length in (3, 6, 9))
IMAGES = tuple(images(seed=seed) for seed in range(3))
EVERY_KIND = [
    {},
    {"optimize": "basic"},
    {"optimize": "extended"},
    {"optimize": "all"},
    {"precision": "fp16"},
    {"optimize": "extended", "precision": "fp16"},
    {"quantize": "dynamic"},
    {"quantize": "dynamic", "weight_type": "uint8", "per_channel": False},
    {"quantize": "dynamic", "optimize": "extended"},
    {"quantize": "static"},
    {"quantize": "static", "calibration_method": "entropy"},
    {"quantize": "static", "calibration_method": "percentile", "optimize": "extended"},
]
LABELS = ["-".join(map(str, spec.values())) or "plain" for spec in EVERY_KIND]


@pytest.fixture
def text(tmp_path):
    return transformer_like(tmp_path / "text")


@pytest.fixture
def image(tmp_path):
    return convolutional(tmp_path / "image")


def make(given: VariantOrder[OnnxVariant]) -> Path:
    return OnnxVariantMaker().make(given).artifact


def run(path: Path, inputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options).run(None, inputs)[0]


def difference(path: Path, other: Path, inputs) -> float:
    expected = run(path, inputs)
    return float(np.abs(expected - run(other, inputs)).max() / np.abs(expected).max())


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def element_types(path: Path) -> Counter[int]:
    return Counter(tensor.data_type for tensor in onnx_files.tensors(onnx.load(path).graph))


@pytest.mark.parametrize("spec", EVERY_KIND, ids=LABELS)
def test_every_kind_keeps_names_axes_and_format_and_computes_nearly_the_same(text, spec):
    given = order(text, TOKENS, **spec)
    maker = OnnxVariantMaker()
    made = maker.make(given)
    assert maker.signature(given, made) == given.signature
    assert made.facts["opset"] == 20 and made.facts["ir_version"] <= 10
    assert names(given.folder) == ["model.onnx"]
    assert difference(text, made.artifact, tokens(2, 5, seed=9)) < 0.05


def test_the_file_as_it_is_is_copied(text):
    made = OnnxVariantMaker().make(order(text))
    assert made.artifact.read_bytes() == text.read_bytes()
    assert made.facts["oldest_triton"] == "24.05"


@pytest.mark.parametrize("spec", EVERY_KIND[1:], ids=LABELS[1:])
def test_nothing_tells_where_it_was_made_and_no_operator_set_is_named_in_vain(text, spec):
    path = make(order(text, TOKENS, **spec))
    model = onnx.load(path)
    assert b"/home/me" not in path.read_bytes() and str(text).encode() not in path.read_bytes()
    assert not model.metadata_props
    assert {entry.domain for entry in model.opset_import} == {
        node.domain for node in onnx_files.nodes(model.graph)
    }


def test_integers_come_before_optimisation_and_half_precision_after():
    def order_of(**spec):
        return [step.__name__ for step in steps(OnnxVariant(format="onnx", **spec))]

    assert order_of() == []
    assert order_of(optimize="all", quantize="dynamic") == ["quantize_dynamic", "optimize"]
    assert order_of(optimize="basic", quantize="static") == ["quantize_static", "optimize"]
    assert order_of(optimize="all", precision="fp16") == ["optimize", "to_float16"]


def test_weights_become_a_quarter_with_integers_and_a_half_with_half_precision(text):
    assert TensorProto.INT8 in element_types(make(order(text, quantize="dynamic")))
    halves = element_types(make(order(text, precision="fp16")))
    assert halves[TensorProto.FLOAT16] == 5 and halves[TensorProto.FLOAT] == 0
    size = text.stat().st_size
    assert make(order(text, quantize="dynamic")).stat().st_size < 0.4 * size
    assert make(order(text, precision="fp16")).stat().st_size < 0.6 * size


def test_dynamic_integers_take_products_and_lookups(text):
    made = OnnxVariantMaker().make(order(text, quantize="dynamic"))
    assert made.facts["quantized"]["MatMulInteger"] == 2
    large = [
        t for t in onnx_files.tensors(onnx.load(made.artifact).graph) if len(t.raw_data) > 1000
    ]
    assert {t.data_type for t in large} == {TensorProto.INT8, TensorProto.UINT8}


def test_only_the_operators_asked_for_are_quantized(text):
    made = make(order(text, quantize="dynamic", operators=("Gather",)))
    assert operators(made)["MatMulInteger"] == 0 and operators(made)["DequantizeLinear"] == 1


def test_optimised_integers_become_one_operator(text):
    apart = operators(make(order(text, quantize="dynamic")))
    fused = operators(make(order(text, quantize="dynamic", optimize="extended")))
    assert fused["DynamicQuantizeMatMul"] + fused["MatMulIntegerToFloat"] > 0
    assert fused.total() < apart.total()


def test_a_model_of_convolutions_is_not_quantized_dynamically(image):
    with pytest.raises(VariantFailed, match=r"convolutions hold 9\d% .*'quantize: static'"):
        make(order(image, quantize="dynamic"))


def test_convolutions_are_quantized_dynamically_when_they_are_named(image):
    made = OnnxVariantMaker().make(order(image, quantize="dynamic", operators=("Conv",)))
    assert made.facts["quantized"] == {"ConvInteger": 2}
    assert made.facts["oldest_onnxruntime"] == "1.31"
    unsigned = order(image, quantize="dynamic", operators=("Conv",), weight_type="uint8")
    assert OnnxVariantMaker().make(unsigned).facts["oldest_onnxruntime"] == "1.18"


def test_static_integers_take_convolutions_and_what_lies_between(image):
    made = OnnxVariantMaker().make(order(image, IMAGES, quantize="static"))
    assert made.facts["calibrated_on"] == "3 requests"
    assert difference(image, made.artifact, images(seed=9)) < 0.1
    fused = make(order(image, IMAGES, quantize="static", optimize="extended"))
    assert operators(fused)["QLinearConv"] == 2 and operators(fused)["QLinearAdd"] == 1


def test_static_integers_without_requests_say_where_to_name_them(image):
    with pytest.raises(VariantFailed, match=r"there are none.*'export\.examples'"):
        make(order(image, quantize="static"))


def test_a_variant_that_changes_nothing_is_told(tmp_path):
    plain = adder(tmp_path / "plain")
    with pytest.raises(VariantFailed, match=r"int8 changes nothing.*any kind of operator"):
        make(order(plain, quantize="dynamic"))
    with pytest.raises(VariantFailed, match=r"int8 changes nothing.* in LSTM"):
        make(order(plain, quantize="dynamic", operators=("LSTM",)))


@pytest.mark.parametrize("optimize", ["none", "extended"])
def test_half_precision_takes_the_same_floats_as_before(image, optimize):
    made = make(order(image, precision="fp16", optimize=optimize))
    assert difference(image, made, images(seed=9)) < 0.01


def test_half_precision_of_what_has_no_floats_is_told(tmp_path):
    integers = adder(tmp_path / "integers", TensorProto.INT64)
    with pytest.raises(VariantFailed, match="float16 changes nothing"):
        make(order(integers, precision="fp16"))


def test_what_was_bound_to_this_kind_of_cpu_is_told(text):
    assert "bound_to" not in OnnxVariantMaker().make(order(text, optimize="extended")).facts
    facts = OnnxVariantMaker().make(order(text, optimize="all")).facts
    assert "CPU" in facts["bound_to"] and facts["optimized_by"].startswith("onnxruntime 1.")


@pytest.mark.parametrize("spec", EVERY_KIND, ids=LABELS)
def test_weights_above_the_limit_lie_beside_the_graph(text, tmp_path, monkeypatch, spec):
    monkeypatch.setattr(onnx_files, "LARGEST_SINGLE_FILE", 64)
    outside = tmp_path / "outside"
    outside.mkdir()
    onnx_files.write(onnx.load(text), outside / "model.onnx")
    given = order(outside / "model.onnx", TOKENS, **spec)
    path = make(given)
    assert names(given.folder) == ["model.onnx", "model.onnx.data"]
    assert difference(text, path, tokens(2, 5, seed=9)) < 0.05


def test_the_exported_file_and_its_folder_stay_as_they_were(text):
    before = text.read_bytes()
    make(order(text, TOKENS, quantize="static", optimize="all"))
    assert names(text.parent) == ["model.onnx"] and text.read_bytes() == before


ALONE = """
import sys
from pathlib import Path
from tests.repo_builder.variants.graphs import order, tokens
from tests.repo_builder.variants.test_onnx import TOKENS, make
for spec in ({"quantize": "dynamic", "optimize": "extended"}, {"quantize": "static"},
             {"precision": "fp16", "optimize": "all"}):
    sys.stdout.buffer.write(make(order(Path(sys.argv[1]), TOKENS, **spec)).read_bytes())
"""


@pytest.mark.build
def test_another_process_makes_the_same_bytes(text):
    def digest() -> str:
        command = [sys.executable, "-c", ALONE, str(text)]
        root = Path(__file__).parents[3]
        done = subprocess.run(command, cwd=root, capture_output=True, check=True)
        assert len(done.stdout) > 10_000
        return hashlib.sha256(done.stdout).hexdigest()

    assert digest() == digest()


@pytest.mark.parametrize(
    ("was", "cause"),
    [
        (signature("text INT64 batch sequence", "scores FP32 batch 3"), "inputs became tokens"),
        (signature("tokens INT64 batch sequence", "y FP32 batch 3"), "outputs became scores"),
        (signature("tokens INT32 batch sequence", "scores FP32 batch 3"), "INT64"),
        (signature("tokens INT64 rows sequence", "scores FP32 batch 3"), "'tokens' became INT64"),
        (signature("tokens INT64 batch sequence", "scores FP32 3"), "'scores' became FP32"),
    ],
)
def test_a_lost_name_type_or_axis_fails_the_variant(text, was, cause):
    with pytest.raises(VariantFailed, match=cause):
        make(replace(order(text, optimize="basic"), signature=was))


def test_a_name_where_there_was_none_is_no_loss(text):
    anonymous = Signature(
        (Tensor("tokens", "INT64", ("?", "?")),), (Tensor("scores", "FP32", ("?", 3)),)
    )
    assert make(replace(order(text, optimize="basic"), signature=anonymous)).is_file()


def test_a_file_that_needs_a_newer_server_fails_the_variant(text, monkeypatch):
    def raised(given, source, target):
        model = onnx.load(source)
        model.opset_import[0].version = 21
        onnx_files.write(model, target)
        return {}

    monkeypatch.setattr(variants, "optimize", raised)
    with pytest.raises(VariantFailed, match="became opset 21"):
        make(order(text, optimize="basic"))


@pytest.mark.parametrize("error", [AttributeError("no such thing"), Exception("gave\nup")])
def test_whatever_a_step_stumbles_over_is_one_line(text, monkeypatch, error):
    def stumbling(given, source, target):
        raise error

    monkeypatch.setattr(variants, "optimize", stumbling)
    with pytest.raises(
        VariantFailed, match=r"stumbling failed: .*Leave this variant out"
    ) as caught:
        make(order(text, optimize="basic"))
    assert "\n" not in str(caught.value)


def test_a_damaged_exported_file_is_told(text):
    given = order(text)
    text.write_bytes(b"no model")
    with pytest.raises(VariantFailed, match=r"model\.onnx cannot be read.*--force"):
        make(given)
