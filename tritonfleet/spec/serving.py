"""How Triton serves a model: the ``serving`` of a fleet file, and the built-in profiles.

Names and structure are those of Triton's model configuration; docs/config.md tells of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from tritonfleet.spec.base import DataType, ModelName, Spec, overlay
from tritonfleet.spec.optimization import Optimization, Text
from tritonfleet.spec.scheduling import DynamicBatching, InstanceGroup, SequenceBatching

ComputeCapability = Annotated[str, StringConstraints(pattern=r"^\d+\.\d+$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$")]


class TensorOptions(Spec):
    """What the artifact itself does not say of one of its tensors."""

    dims: tuple[int, ...] | None = Field(
        None, min_length=1, description="Dynamic sizes fixed, or what clients see of a reshape."
    )
    reshape: tuple[int, ...] | None = Field(
        None, description="The artifact's own dims, where clients see others of the same volume."
    )
    is_shape_tensor: bool = False
    is_non_linear_format_io: bool = False


class InputOptions(TensorOptions):
    """What the artifact itself does not say of an input."""

    optional: bool = Field(False, description="Requests may leave it out.")
    allow_ragged_batch: bool = Field(
        False, description="Requests of different sizes are joined end to end in one execution."
    )
    format: Literal["none", "nhwc", "nchw"] = "none"


class BatchInput(Spec):
    """Inputs that Triton makes of the batch's own shape, for ragged batches."""

    kind: Literal[
        "element_count", "accumulated_element_count", "accumulated_element_count_with_zero",
        "max_element_count_as_shape", "item_shape", "item_shape_flatten",
    ]  # fmt: skip
    target_name: tuple[str, ...] = Field(min_length=1)
    data_type: DataType
    source_input: tuple[str, ...] = Field(min_length=1)


class BatchOutput(Spec):
    """Outputs of a ragged batch, and by which input they are dealt out to the requests."""

    target_name: tuple[str, ...] = Field(min_length=1)
    kind: Literal["scatter_with_input_shape"] = "scatter_with_input_shape"
    source_input: tuple[str, ...] = Field(min_length=1)


class Warmup(Spec):
    """A request that Triton runs inside the load, before the model counts as ready."""

    name: str | None = None
    batch_size: int = Field(1, ge=1)
    count: int = Field(1, ge=1)
    data: Literal["zero", "random"] = Field("zero", description="Integers are always zero.")
    files: dict[str, str] = Field(
        default_factory=dict,
        description="Real data for inputs: an .npy of one row or raw bytes, relative to the fleet "
        "file. It is published with the model.",
    )
    dimensions: dict[str, int] = Field(
        default_factory=dict, description="Sizes for named dynamic dimensions; 8 where not given."
    )


class VersionPolicy(Spec):
    """Which of the published versions are served; exactly one of the three."""

    latest: int | None = Field(None, ge=1)
    specific: tuple[int, ...] | None = None
    all: bool = False


class ResponseCache(Spec):
    """Answers are kept by their inputs, where the server has a cache."""

    enable: bool


class ModelTransactionPolicy(Spec):
    """How many answers a request has."""

    decoupled: bool = Field(description="None, one or many, over a stream.")


class ModelOperations(Spec):
    """Libraries of custom operators."""

    op_library_filename: tuple[str, ...] = Field(
        description="Paths on the server, loaded with the model: they run code."
    )


class Agent(Spec):
    """A repository agent, such as one that checks signatures of files."""

    name: str
    parameters: dict[str, Text] = Field(default_factory=dict)


class ModelRepositoryAgents(Spec):
    """Plugins of the server that act when the model is loaded; in this order."""

    agents: tuple[Agent, ...] = Field(min_length=1)


class MetricIdentifier(Spec):
    """Which metric."""

    family: str


class HistogramOptions(Spec):
    """The upper bounds of a histogram's buckets."""

    buckets: tuple[float, ...]


class MetricControl(Spec):
    """How one metric of the model is kept."""

    metric_identifier: MetricIdentifier
    histogram_options: HistogramOptions


class ModelMetrics(Spec):
    """How metrics of the model are kept. Triton knows it from 24.11 on."""

    metric_control: tuple[MetricControl, ...]


class ConfigOptions(Spec):
    """What goes into a config.pbtxt. What is not given here is read from the artifact."""

    max_batch_size: int | None = Field(None, ge=0, description="0: requests carry no batch.")
    input: dict[str, InputOptions] = Field(default_factory=dict, description="By name.")
    output: dict[str, TensorOptions] = Field(
        default_factory=dict,
        description="By name. A sequence's state is an output for clients too where it is here.",
    )
    batch_input: tuple[BatchInput, ...] = ()
    batch_output: tuple[BatchOutput, ...] = ()
    instance_group: tuple[InstanceGroup, ...] = (InstanceGroup(),)
    dynamic_batching: DynamicBatching | None = None
    sequence_batching: SequenceBatching | None = None
    optimization: Optimization | None = None
    warmup: tuple[Warmup, ...] = ()
    version_policy: VersionPolicy = VersionPolicy(latest=1)
    response_cache: ResponseCache | None = None
    model_transaction_policy: ModelTransactionPolicy | None = None
    parameters: dict[str, Text] = Field(
        default_factory=dict, description="For the backend, and for a model.py."
    )
    metric_tags: dict[str, Text] = Field(default_factory=dict)
    default_model_filename: FileName | None = None
    cc_model_filenames: dict[ComputeCapability, FileName] = Field(
        default_factory=dict, description="For each CUDA compute capability, such as '9.0'."
    )
    model_operations: ModelOperations | None = None
    model_repository_agents: ModelRepositoryAgents | None = None
    model_metrics: ModelMetrics | None = None
    runtime: FileName | None = Field(
        None, description="The library or model.py that runs it, where a backend has several."
    )
    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of ModelConfig that are not typed here, as protobuf's JSON names them. "
        "They add to what is generated and never contradict it.",
    )


class ServingSpec(ConfigOptions):
    """What goes into config.pbtxt, and beside it. What is not given is read from the artifact."""

    keep_versions: int = Field(2, ge=1, description="Published versions kept on disk.")
    labels: dict[str, tuple[str, ...] | str] = Field(
        default_factory=dict,
        description="For an output of scores: its class names, or a file with one a line.",
    )
    configs: dict[ModelName, ConfigOptions] = Field(
        default_factory=dict,
        description="Other configurations, laid over this one, for servers started with "
        "--model-config-name.",
    )

    def alternatives(self) -> Iterator[tuple[str, ServingSpec]]:
        """Each of the other configurations in full, by name."""
        main = self.model_copy(update={"configs": {}})
        for name, options in self.configs.items():
            yield name, ServingSpec.model_validate(overlay(main, options))


BUILT_IN_PROFILES: Mapping[str, Mapping[str, Any]] = {
    "interactive": {
        "description": "A person waits: small batches, hardly any queueing delay.",
        "serving": {
            "max_batch_size": 8,
            "dynamic_batching": {
                "max_queue_delay_microseconds": 500,
                "default_queue_policy": {"allow_timeout_override": True},
            },
        },
    },
    "bursty": {
        "description": "Quiet, then many at once: larger batches, a bounded queue.",
        "serving": {
            "max_batch_size": 32,
            "dynamic_batching": {
                "max_queue_delay_microseconds": 2000,
                "default_queue_policy": {
                    "max_queue_size": 256,
                    "default_timeout_microseconds": 5_000_000,
                    "allow_timeout_override": True,
                },
            },
        },
    },
    "batch": {
        "description": "Throughput before latency: full batches, a long queue.",
        "serving": {
            "max_batch_size": 64,
            "dynamic_batching": {
                "max_queue_delay_microseconds": 20_000,
                "default_queue_policy": {"timeout_action": "DELAY"},
            },
        },
    },
    "large": {
        "description": "Heavy models that must not run side by side: one share of 'heavy'.",
        "serving": {
            "max_batch_size": 4,
            "instance_group": [
                {"count": 1, "rate_limiter": {"resources": [{"name": "heavy", "count": 1}]}}
            ],
        },
    },
}
