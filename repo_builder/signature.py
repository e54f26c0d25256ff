"""What goes into a model and what comes out, as the artifact itself says it.

Knows ONNX's types and Triton's; decides whether requests may be batched. Knows nothing of
``config.pbtxt``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tritonfleet.errors import InvalidModelConfig

BATCH = "batch"
ANONYMOUS = "?"
"""The name of a dynamic dimension that has none."""

Shape: TypeAlias = "tuple[int | str, ...]"

_TRITON_TYPES = {
    "FLOAT": "FP32",
    "DOUBLE": "FP64",
    "FLOAT16": "FP16",
    "BFLOAT16": "BF16",
    "BOOL": "BOOL",
    "STRING": "BYTES",
    **{f"{sign}INT{bits}": f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output; a dynamic dimension is a name."""

    name: str
    dtype: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    @classmethod
    def parse(cls, name: str, text: str) -> Tensor:
        """The tensor of a name and what ``str`` gave of it."""
        dtype, _, sizes = text.removesuffix("]").partition("[")
        parts = [part.strip() for part in sizes.split(",") if part.strip()]
        return cls(name, dtype, tuple(int(part) if part.isdigit() else part for part in parts))


@dataclass(frozen=True, slots=True)
class Signature:
    """All inputs and outputs of a model, the batch dimension included."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def batchable(self) -> bool:
        """Whether rows of different requests may share an execution.

        Only when every tensor starts with one and the same dynamic dimension, and that dimension
        is nowhere else: a batch that also shows up as a width mixes the rows.
        """
        tensors = (*self.inputs, *self.outputs)
        leading = {tensor.shape[0] if tensor.shape else 0 for tensor in tensors}
        if len(leading) != 1:
            return False
        batch = leading.pop()
        if not isinstance(batch, str) or batch == ANONYMOUS:
            return False
        return not any(_mentions(size, batch) for t in tensors for size in t.shape[1:])

    def texts(self) -> dict[str, dict[str, str]]:
        """As the manifest keeps it: by side and name, such as 'INT64[batch, sequence]'."""
        sides = {"inputs": self.inputs, "outputs": self.outputs}
        return {side: {t.name: str(t) for t in tensors} for side, tensors in sides.items()}

    @classmethod
    def from_texts(cls, sides: Mapping[str, Mapping[str, str]]) -> Signature:
        """What ``texts`` gave."""
        inputs, outputs = (
            tuple(Tensor.parse(name, text) for name, text in sides.get(side, {}).items())
            for side in ("inputs", "outputs")
        )
        return cls(inputs, outputs)

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Inputs, then outputs."""
        yield from self.inputs
        yield from self.outputs


def _mentions(size: int | str, name: str) -> bool:
    """Whether a dimension is this name or an expression over it, such as 'past + batch'."""
    if isinstance(size, int):
        return False
    return name in "".join(c if c.isalnum() or c == "_" else " " for c in size).split()


def read_signature(model: str, path: Path) -> Signature:
    """The signature of an ONNX file, without reading weights that lie beside it.

    Raises InvalidModelConfig for a type that Triton has no name for.
    """
    import onnx

    return graph_signature(model, onnx.load(str(path), load_external_data=False).graph)


def graph_signature(model: str, graph: Any) -> Signature:
    """The signature of an ONNX graph; InvalidModelConfig as above."""
    weights = {initializer.name for initializer in graph.initializer}
    inputs = tuple(_tensor(model, value) for value in graph.input if value.name not in weights)
    return Signature(inputs, tuple(_tensor(model, value) for value in graph.output))


def _tensor(model: str, value: Any) -> Tensor:
    from onnx import TensorProto

    kind = value.type.tensor_type
    name = TensorProto.DataType.Name(kind.elem_type)
    if name not in _TRITON_TYPES:
        cause = f"'{value.name}' is a tensor of {name}, which Triton does not serve"
        raise InvalidModelConfig(model, cause, "Cast it to another type inside the model.")
    return Tensor(value.name, _TRITON_TYPES[name], tuple(_size(dim) for dim in kind.shape.dim))


def _size(dim: Any) -> int | str:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or ANONYMOUS
