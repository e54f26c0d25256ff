"""The ``optimization`` of a model's ``serving``: what its backend may do to run it faster.

Names and structure are Triton's, but for ``tensorrt``, which is written out as the parameters of
ONNX Runtime's accelerator of that name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from tritonfleet.spec.base import Spec
from tritonfleet.spec.export import DimensionRange
from tritonfleet.units import Bytes


def _as_text(value: Any) -> Any:
    """Numbers and booleans as a config.pbtxt writes them."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


Text: TypeAlias = Annotated[
    str, BeforeValidator(_as_text, json_schema_input_type=str | int | float | bool)
]
"""A string in config.pbtxt; YAML may give a number or a boolean."""


class GraphOptimization(Spec):
    """How far the backend's own graph optimisation goes."""

    level: int = Field(description="ONNX Runtime: -1 is basic, 1 extended, 2 none, 0 all.")


class GraphShape(Spec):
    """The dims of one input, without the batch."""

    dim: tuple[int, ...]


class GraphLowerBound(Spec):
    """The smallest request that a captured graph may serve, padded."""

    batch_size: int = Field(0, ge=0)
    input: dict[str, GraphShape] = Field(default_factory=dict)


class GraphSpec(Spec):
    """A size of request for which TensorRT captures a CUDA graph."""

    batch_size: int = Field(0, ge=0)
    input: dict[str, GraphShape] = Field(default_factory=dict)
    graph_lower_bound: GraphLowerBound | None = None


class Cuda(Spec):
    """CUDA's own means, for backends that heed them."""

    graphs: bool = Field(False, description="Capture an execution once and replay it.")
    busy_wait_events: bool = Field(False, description="Lower latency for a CPU core kept busy.")
    graph_spec: tuple[GraphSpec, ...] = ()
    output_copy_stream: bool = False


class Accelerator(Spec):
    """An execution accelerator that the backend knows by name."""

    name: str
    parameters: dict[str, Text] = Field(default_factory=dict)


class ExecutionAccelerators(Spec):
    """Tried in this order by the backend."""

    gpu_execution_accelerator: tuple[Accelerator, ...] = ()
    cpu_execution_accelerator: tuple[Accelerator, ...] = ()


class PinnedMemory(Spec):
    """Whether tensors travel to the GPU through page-locked memory."""

    enable: bool


class TensorRTAccelerator(Spec):
    """ONNX Runtime runs the graph by TensorRT: engines are made on the server at the first load.

    Give the model a warm-up, or its first clients wait for the engines.
    """

    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    workspace: Bytes | None = Field(None, description="Scratch memory tactics may use.")
    cache: str | None = Field(
        None,
        pattern="^/",
        description="A folder on the server that keeps the engines over restarts.",
    )
    dimensions: dict[str, DimensionRange] = Field(
        default_factory=dict,
        description="Sizes of the named dynamic dimensions; the batch is 1 to max_batch_size where "
        "not given. Without any, ONNX Runtime makes an engine anew for each wider request.",
    )
    parameters: dict[str, Text] = Field(default_factory=dict, description="Anything else.")


class Optimization(Spec):
    """What the backend may do to run the model faster."""

    graph: GraphOptimization | None = None
    priority: Literal["default", "max", "min"] | None = Field(
        None, description="TensorRT: which CUDA stream priority."
    )
    cuda: Cuda | None = None
    execution_accelerators: ExecutionAccelerators | None = None
    tensorrt: TensorRTAccelerator | None = None
    input_pinned_memory: PinnedMemory | None = None
    output_pinned_memory: PinnedMemory | None = None
    gather_kernel_buffer_threshold: int = Field(0, ge=0)
    eager_batching: bool = Field(
        False, description="Prepare the next batch while the instance still executes the last."
    )
