"""Makes valid inputs for a model from its configuration, in each form in which they are sent.

Knows data types and encodings; not what a model means by its inputs. Values are fixed by a seed, so
that two runs send the same bytes.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from tritonfleet.errors import InvalidSpec, Problem
from tritonfleet.server.tensors import DYNAMIC_SIZE, NUMPY_TYPES, encode_texts

TEXTS = (
    "A fleet of models shares the memory of one server.",
    "The tide turns before noon.",
    "Which of these reports mentions the harbour bridge, and when was it written?",
    "Short.",
)
_SEED = 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input of one request; its shape has the batch in front where the model has one."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes
    """As Triton's binary extension wants it: little-endian, texts with their length in front."""
    texts: tuple[str, ...] = ()
    """What a BYTES tensor holds."""


def callable_by_requests(config: Mapping[str, Any]) -> bool:
    """Whether one request brings one answer: not for sequences and decoupled models."""
    decoupled = config.get("model_transaction_policy", {}).get("decoupled", False)
    return not decoupled and "sequence_batching" not in config


def members(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The models an ensemble calls, each once; none for any other model."""
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    return tuple(dict.fromkeys(str(step["model_name"]) for step in steps))


def make_inputs(
    config: Mapping[str, Any],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    texts: Sequence[str] = TEXTS,
    batch_size: int = 1,
    variant: int = 0,
) -> list[Tensor]:
    """Inputs that fit a model configuration (the JSON form of Triton's protocol extension).

    ``shapes`` fixes inputs by name, without the batch. ``variant`` chooses among different values.
    Raises InvalidSpec for a shape that names no input or contradicts the configuration.
    """
    shapes = shapes or {}
    name = str(config["name"])
    required = [entry for entry in config["input"] if not entry.get("optional")]
    _check_shapes(name, config["input"], shapes)
    batched = int(config.get("max_batch_size", 0)) > 0
    made = []
    for position, entry in enumerate(required):
        shape = tuple(shapes.get(entry["name"], _shape(entry)))
        full = (batch_size, *shape) if batched else shape
        generator = numpy.random.default_rng((_SEED, variant, position))
        made.append(_tensor(entry, full, generator, _rotated(texts, variant)))
    return made


def _check_shapes(
    model: str, entries: Sequence[Mapping[str, Any]], shapes: Mapping[str, Sequence[int]]
) -> None:
    declared = {entry["name"]: _dims(entry) for entry in entries}
    problems = []
    for name, shape in shapes.items():
        dims = declared.get(name)
        if dims is None:
            message = f"{model} has no input '{name}'; it has {', '.join(declared)}"
            problems.append(Problem(f"shapes.{name}", message))
        elif not _fits(shape, dims):
            message = f"{list(shape)} does not fit {dims}, as {model} declares it"
            problems.append(Problem(f"shapes.{name}", message))
    if problems:
        raise InvalidSpec(f"the scenario of {model}", tuple(problems))


def _fits(shape: Sequence[int], dims: Sequence[int]) -> bool:
    sizes = zip(shape, dims, strict=False)
    return len(shape) == len(dims) and all(d in (-1, s) for s, d in sizes)


def _dims(entry: Mapping[str, Any]) -> list[int]:
    # JSON made from protobuf writes 64-bit integers as text.
    return [int(size) for size in entry["dims"]]


def _shape(entry: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(size if size > 0 else DYNAMIC_SIZE for size in _dims(entry))


def _rotated(texts: Sequence[str], by: int) -> Sequence[str]:
    start = by % len(texts)
    return [*texts[start:], *texts[:start]]


def _tensor(
    entry: Mapping[str, Any],
    shape: tuple[int, ...],
    generator: numpy.random.Generator,
    texts: Sequence[str],
) -> Tensor:
    name = str(entry["name"])
    datatype = str(entry["data_type"]).removeprefix("TYPE_").replace("STRING", "BYTES")
    count = math.prod(shape)
    if datatype == "BYTES":
        chosen = tuple(texts[index % len(texts)] for index in range(count))
        return Tensor(name, datatype, shape, encode_texts(chosen), chosen)
    if datatype == "BF16":  # the upper half of a float32
        halves = generator.random(count, dtype=numpy.float32).view(numpy.uint32) >> 16
        return Tensor(name, datatype, shape, halves.astype("<u2").tobytes())
    return Tensor(name, datatype, shape, _values(name, datatype, count, generator).tobytes())


def _values(
    name: str, datatype: str, count: int, generator: numpy.random.Generator
) -> NDArray[Any]:
    kind = NUMPY_TYPES[datatype]
    if datatype.startswith("FP"):
        return generator.random(count, dtype=numpy.float64).astype(kind)
    # Whole numbers are indices as a rule, and 0 is one of every table; of a mask, 1 means "here".
    return numpy.full(count, 1 if name.endswith("mask") else 0, dtype=kind)


# -- the forms that are sent -------------------------------------------------------------------


def http_request(tensors: Sequence[Tensor]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an inference request over HTTP, tensors in binary behind the JSON.

    The answer comes in the same form, as perf_analyzer asks for it, too.
    """
    described = [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
            "parameters": {"binary_data_size": len(tensor.raw)},
        }
        for tensor in tensors
    ]
    head = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
    headers = {
        "Inference-Header-Content-Length": str(len(head)),
        "Content-Type": "application/octet-stream",
    }
    return head + b"".join(tensor.raw for tensor in tensors), headers


def grpc_request(model: str, tensors: Sequence[Tensor]) -> Any:
    """The same request as a ``ModelInferRequest``."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for tensor in tensors:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(tensor.raw)
    return request


def analyzer_data(
    variants: Sequence[Sequence[Tensor]], config: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Requests of one row each in perf_analyzer's own format; it batches them itself."""
    batched = int(config.get("max_batch_size", 0)) > 0
    return {
        "data": [
            {tensor.name: _analyzer_tensor(tensor, batched) for tensor in variant}
            for variant in variants
        ]
    }


def _analyzer_tensor(tensor: Tensor, batched: bool) -> dict[str, Any]:
    # Not as numbers: it refuses "1" for a float, and has no 16-bit floats.
    plain = {"b64": base64.b64encode(tensor.raw).decode()}
    content = list(tensor.texts) if tensor.datatype == "BYTES" else plain
    return {"content": content, "shape": list(tensor.shape[1:] if batched else tensor.shape)}
