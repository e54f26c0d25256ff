"""Inference requests and answers as Triton's protocol has them, to and from numpy.

Knows shapes, types and encodings; nothing here talks to a server.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy
from tritonclient.grpc import service_pb2

from tritonfleet.server.pbtxt import datatype
from tritonfleet.server.tensors import (
    DYNAMIC_SIZE,
    NUMPY_TYPES,
    decode_texts,
    element_bytes,
    encode_texts,
)

Array: TypeAlias = "numpy.ndarray[Any, Any]"
_TEXT = "warm up"
_BF16_SHIFT = 16


def warmup_request(config: Any, batch_size: int = 1) -> Any:
    """A ``ModelInferRequest`` of zeros (and a short text) that fits a ``ModelConfig``."""
    return inference_request(config, {}, batch_size)


def inference_request(
    config: Any, tensors: Mapping[str, Array], batch_size: int = 1, version: str = ""
) -> Any:
    """A ``ModelInferRequest`` with these inputs, batch in front, and zeros for the others.

    Optional inputs that are not given stay away. Raises TypeError for values that an input's type
    cannot hold.
    """
    request = service_pb2.ModelInferRequest(model_name=config.name, model_version=version)
    for tensor in config.input:
        kind = datatype(tensor.data_type)
        if tensor.name in tensors:
            value = tensors[tensor.name]
            _add(request, tensor.name, kind, value.shape, tensor_bytes(kind, value))
        elif not tensor.optional:
            shape = _made_up_shape(config, tensor, batch_size)
            _add(request, tensor.name, kind, shape, _zeros(kind, math.prod(shape)))
    return request


def _add(request: Any, name: str, kind: str, shape: Iterable[int], raw: bytes) -> None:
    request.inputs.add(name=name, datatype=kind, shape=shape)
    request.raw_input_contents.append(raw)


def _made_up_shape(config: Any, tensor: Any, batch_size: int) -> list[int]:
    shape = [size if size > 0 else DYNAMIC_SIZE for size in tensor.dims]
    return [batch_size, *shape] if config.max_batch_size > 0 else shape


def _zeros(kind: str, count: int) -> bytes:
    if kind == "BYTES":
        return encode_texts([_TEXT] * count)
    return bytes(element_bytes(kind) * count)


def tensor_bytes(kind: str, value: Array) -> bytes:
    """A tensor on the wire, little-endian; TypeError for values that the type cannot hold."""
    if kind == "BYTES":
        return encode_texts(value.ravel().tolist())
    if kind == "BF16":
        single = value.astype(numpy.float32, casting="same_kind")
        return (single.view(numpy.uint32) >> _BF16_SHIFT).astype("<u2").tobytes()
    wire = numpy.dtype(NUMPY_TYPES[kind]).newbyteorder("<")
    return value.astype(wire, casting="same_kind").tobytes()


def answer_tensors(answer: Any) -> dict[str, Array]:
    """The outputs of a ``ModelInferResponse`` by name; texts as bytes, BF16 as float32."""
    return {
        output.name: _array(output.datatype, raw).reshape(tuple(output.shape))
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def _array(kind: str, raw: bytes) -> Array:
    if kind == "BYTES":
        return numpy.array(decode_texts(raw), dtype=object)
    if kind == "BF16":
        wide = numpy.frombuffer(raw, "<u2").astype(numpy.uint32) << _BF16_SHIFT
        return wide.view(numpy.float32)
    return numpy.frombuffer(raw, numpy.dtype(NUMPY_TYPES[kind]).newbyteorder("<"))
