"""Weights in 8-bit integers: activations with them, by ranges found while running or beforehand.

Which operators are worth it was measured, on a CPU with integer dot products: convolutions with
ranges found while running are slower than float32, and transformers with ranges found beforehand
lose their meaning unless only matrix products are quantized.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repo_builder import onnx_files
from repo_builder.exporters.base import VariantOrder
from repo_builder.variants.calibration import CalibrationData, chosen
from tritonfleet.errors import VariantFailed
from tritonfleet.spec.export import OnnxVariant

# All that ONNX Runtime's quantizer knows in this mode, but convolutions.
_DYNAMIC = ("MatMul", "Gemm", "Gather", "Attention", "LSTM", "EmbedLayerNormalization", "Transpose")
_STATIC = ("Conv", "ConvTranspose", "MatMul", "Gemm")
# What lies between convolutions, so that values need not change type on the way.
_BETWEEN_CONVOLUTIONS = (
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Flatten",
    "GlobalAveragePool",
    "MaxPool",
    "Relu",
)
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
_INTEGERS = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM", "QAttention")


def quantize_dynamic(
    order: VariantOrder[OnnxVariant], source: Path, target: Path
) -> dict[str, Any]:
    """Ranges of activations found anew in each request: needs no data."""
    from onnxruntime import quantization

    if order.spec.operators is None:
        _refuse_convolutions(order, source)
    _forget_inner_shapes(source)
    with _quiet():
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(order.spec.operators or _DYNAMIC),
            per_channel=order.spec.per_channel,
            weight_type=_weight_type(order.spec),
            use_external_data_format=_large(source),
        )
    return _quantized(order, target)


def quantize_static(order: VariantOrder[OnnxVariant], source: Path, target: Path) -> dict[str, Any]:
    """Ranges of activations found on real requests, and written into the graph."""
    from onnxruntime import quantization

    requests = chosen(order)
    prepared = _prepare(source)
    with _quiet():
        quantization.quantize_static(
            prepared,
            target,
            CalibrationData(requests),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(order.spec.operators or _static_operators(prepared)),
            per_channel=order.spec.per_channel,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=_weight_type(order.spec),
            calibrate_method=getattr(
                quantization.CalibrationMethod, _METHODS[order.spec.calibration_method]
            ),
            use_external_data_format=_large(prepared),
            # One request at a time: they differ in length, and need not all be in memory.
            extra_options={"CalibStridedMinMax": 1},
        )
    return {**_quantized(order, target), "calibrated_on": f"{len(requests)} requests"}


def _prepare(source: Path) -> Path:
    """Shapes inferred and batch normalisation folded away, where that works; else as it is."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = source.with_name("prepared.onnx")
    try:
        with _quiet():
            # Symbolic shape inference fails on every transformer; ONNX's own does what is needed.
            quant_pre_process(
                source,
                prepared,
                skip_symbolic_shape=True,
                save_as_external_data=_large(source),
                all_tensors_to_one_file=True,
                external_data_location=f"{prepared.name}.data" if _large(source) else None,
            )
    # It gives up with a bare Exception; without it the result is larger, not wrong.
    except Exception:
        logging.getLogger(__name__).debug("quantization pre-processing gave up", exc_info=True)
        return source
    return prepared


def _forget_inner_shapes(source: Path) -> None:
    """Drops shapes noted for inner values: the quantizer transposes weights and leaves theirs."""
    model = onnx_files.read(source, weights=False)
    del model.graph.value_info[:]
    source.write_bytes(model.SerializeToString(deterministic=True))


def _refuse_convolutions(order: VariantOrder[OnnxVariant], source: Path) -> None:
    """A model made of convolutions gets slower; a few before a transformer stay as they are."""
    model = onnx_files.read(source, weights=False)
    elements = {tensor.name: _elements(tensor) for tensor in onnx_files.tensors(model.graph)}
    held: Counter[bool] = Counter()
    for node in onnx_files.nodes(model.graph):
        weights = sum(elements.get(name, 0) for name in node.input)
        held[node.op_type in _CONVOLUTIONS] += weights
    if held[True] > held[False]:
        share = held[True] / (held[True] + held[False])
        cause = f"convolutions hold {share:.0%} of its weights, and dynamic int8 slows them down"
        hint = "Use 'quantize: static' with 'export.examples', or list 'operators' yourself."
        raise VariantFailed(order.model, cause, hint)


def _elements(tensor: Any) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _static_operators(source: Path) -> tuple[str, ...]:
    model = onnx_files.read(source, weights=False)
    kinds = {node.op_type for node in onnx_files.nodes(model.graph)}
    convolutional = not kinds.isdisjoint(_CONVOLUTIONS) and "Softmax" not in kinds
    return (*_STATIC, *_BETWEEN_CONVOLUTIONS) if convolutional else _STATIC


def _quantized(order: VariantOrder[OnnxVariant], target: Path) -> dict[str, Any]:
    """How many operators compute in integers now; VariantFailed when none does."""
    model = onnx_files.read(target, weights=False)
    kinds = Counter(node.op_type for node in onnx_files.nodes(model.graph))
    if order.spec.quantize == "dynamic":
        found = {kind: kinds[kind] for kind in _INTEGERS if kinds[kind]}
        found |= (
            {"DequantizeLinear": kinds["DequantizeLinear"]} if kinds["DequantizeLinear"] else {}
        )
    else:
        found = {"QuantizeLinear": kinds["QuantizeLinear"]} if kinds["QuantizeLinear"] else {}
    if not found:
        wanted = ", ".join(order.spec.operators or ()) or "any kind of operator that gains by it"
        cause = f"int8 changes nothing: the graph has no constant weights in {wanted}"
        raise VariantFailed(order.model, cause, "Leave this variant out, or change 'operators'.")
    return {"quantized": found}


def _weight_type(spec: OnnxVariant) -> Any:
    from onnxruntime.quantization import QuantType

    return QuantType.QInt8 if spec.weight_type == "int8" else QuantType.QUInt8


def _large(path: Path) -> bool:
    return onnx_files.weight_bytes(path) > onnx_files.LARGEST_SINGLE_FILE


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizers print their progress and warn through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
