"""The fleet file as types: what may be written, what it defaults to, what it means.

Frozen pydantic models, so that the JSON Schema for editors comes from the same source. Names are
Triton's wherever Triton has one; their meaning is told in Triton's model configuration document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from tritonfleet.settings import Settings
from tritonfleet.units import Bytes, parse_bytes

ModelName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)
]
LabelValue = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$", max_length=63)
]
DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
]  # fmt: skip


_PERCENTAGE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*%\s*$")
MARGIN_SHARE = 0.1
"""Of a server's capacity, kept free unless the file says otherwise."""


def _bytes_or_percentage(value: Any) -> Any:
    if isinstance(value, str) and not _PERCENTAGE.match(value):
        return parse_bytes(value)
    if isinstance(value, int) and value < 0:
        raise ValueError(f"{value} is less than nothing")
    return value


BytesOrPercentage = Annotated[
    int | str,
    BeforeValidator(_bytes_or_percentage),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*([KkMmGgTt]?i?[Bb]?|%)\s*$"},
            ],
        }
    ),
]
"""A number of bytes, in YAML also text with a unit, or a percentage such as '10%'."""


class Spec(BaseModel):
    """Frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class TensorSpec(Spec):
    """One input or output: its data type, and its shape with names for the dynamic dimensions."""

    dtype: DataType
    shape: tuple[int | str, ...] = Field(
        description="Sizes, or names for dynamic dimensions; 'batch' first makes a model batchable."
    )


class HuggingFaceSource(Spec):
    """A Transformers model, from the hub, a directory, an installed package or a configuration."""

    kind: Literal["huggingface"]
    model: str | None = Field(
        None,
        description="A hub id, a directory, or 'package:NAME/PATH' inside an installed package.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    task: Literal[
        "sentence-embedding",
        "feature-extraction",
        "sequence-classification",
        "image-classification",
        "text-generation",
    ]
    random_weights: dict[str, Any] | None = Field(
        None,
        description="Instead of 'model': an architecture from a configuration (model_type and its "
        "fields) with random weights. For sizing and tests; it predicts nothing.",
    )
    seed: int = Field(0, description="Of random weights.")
    max_length: int | None = Field(None, ge=1, description="Longest sequence, in tokens.")


class TorchModuleSource(Spec):
    """A torch.nn.Module made by an importable factory."""

    kind: Literal["torch_module"]
    factory: str = Field(
        pattern=r"^[\w.]+:[\w.]+$", description="'module:function' that returns the module."
    )
    python_path: str | None = Field(
        None, description="Folder to import the factory from, relative to the fleet file."
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="Passed to the factory.")
    files: tuple[str, ...] = Field(
        (), description="Data the factory reads, relative to the fleet file: a change rebuilds."
    )
    inputs: dict[str, TensorSpec] = Field(min_length=1)
    outputs: tuple[str, ...] = Field(min_length=1)


class TokenizerSource(Spec):
    """Text in, token ids and attention mask out, as a python-backend model."""

    kind: Literal["tokenizer"]
    model: str = Field(description="As for 'huggingface': where the tokenizer.json lies.")
    revision: str | None = None
    max_length: int = Field(256, ge=1, description="Longer texts are cut to so many tokens.")
    buckets: tuple[int, ...] = Field(
        (16, 32, 64, 128, 256),
        min_length=1,
        description="Sequences are padded to the next of these, so that requests of similar "
        "length meet in one batch: Triton never batches different shapes.",
    )


class PythonSource(Spec):
    """A folder with a model.py for Triton's python backend."""

    kind: Literal["python"]
    path: str = Field(description="The folder, relative to the fleet file.")
    inputs: dict[str, TensorSpec] = Field(min_length=1)
    outputs: dict[str, TensorSpec] = Field(min_length=1)


class EnsembleStep(Spec):
    """One member of an ensemble; tensors join by name unless a map says otherwise."""

    model: ModelName
    input_map: dict[str, str] = Field(
        default_factory=dict, description="The member's input: the ensemble's tensor."
    )
    output_map: dict[str, str] = Field(
        default_factory=dict, description="The member's output: the ensemble's tensor."
    )


class EnsembleSource(Spec):
    """Other models of the fleet, joined: what one gives, the next takes."""

    kind: Literal["ensemble"]
    steps: tuple[EnsembleStep, ...] = Field(min_length=1)
    outputs: tuple[str, ...] = Field(min_length=1, description="Tensors that leave the ensemble.")


Source: TypeAlias = Annotated[
    HuggingFaceSource | TorchModuleSource | TokenizerSource | PythonSource | EnsembleSource,
    Field(discriminator="kind"),
]


class ParitySpec(Spec):
    """How the artifact is proved to compute what the original computes."""

    tolerance: float = Field(
        1e-4, gt=0, description="Largest allowed max|difference| / max|reference| per output."
    )
    batch_sizes: tuple[int, ...] = Field((1, 3), min_length=1)
    dimensions: dict[str, tuple[int, ...]] = Field(
        {"sequence": (1, 8, 33)},
        description="Sizes tried for each named dynamic dimension besides the batch.",
    )


class ExportSpec(Spec):
    """How the source becomes an artifact that Triton can load."""

    exporter: str = "onnx"
    opset: int = Field(
        20, ge=18, le=23, description="ONNX operator set; 20 loads in every Triton from 24.05 on."
    )
    parity: ParitySpec = ParitySpec()


class Resource(Spec):
    """A share of something that instances must not use all at once."""

    name: str
    count: int = Field(ge=1)
    is_global: bool = Field(
        False, alias="global", description="One for all devices, not one for each."
    )


class RateLimiter(Spec):
    """When an instance may execute, beside others that want the same resources."""

    resources: tuple[Resource, ...] = ()
    priority: int = Field(1, ge=1, description="Who executes next; 1 is the most important.")


class InstanceGroup(Spec):
    """So many execution instances of the model."""

    count: int = Field(1, ge=1)
    rate_limiter: RateLimiter | None = None


class QueuePolicy(Spec):
    """How long and how many requests may queue inside Triton."""

    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    default_timeout_microseconds: int = Field(0, ge=0)
    allow_timeout_override: bool = False
    max_queue_size: int = Field(0, ge=0, description="0 is unlimited.")


class DynamicBatching(Spec):
    """Triton's dynamic batcher."""

    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = Field(0, ge=0)
    preserve_ordering: bool = False
    priority_levels: int = Field(0, ge=0)
    default_priority_level: int = Field(0, ge=0)
    default_queue_policy: QueuePolicy | None = None
    priority_queue_policy: dict[int, QueuePolicy] = Field(default_factory=dict)


class Warmup(Spec):
    """A request that Triton runs inside the load, before the model counts as ready."""

    batch_size: int = Field(1, ge=1)
    count: int = Field(1, ge=1)
    data: Literal["zero", "random"] = "zero"
    dimensions: dict[str, int] = Field(
        default_factory=dict, description="Sizes for named dynamic dimensions; 8 where not given."
    )


class VersionPolicy(Spec):
    """Which of the published versions are served; exactly one of the three."""

    latest: int | None = Field(None, ge=1)
    specific: tuple[int, ...] | None = None
    all: bool = False


class ServingSpec(Spec):
    """What goes into config.pbtxt. What is not given here is read from the artifact."""

    max_batch_size: int | None = Field(None, ge=0, description="0: requests carry no batch.")
    instance_group: tuple[InstanceGroup, ...] = (InstanceGroup(),)
    dynamic_batching: DynamicBatching | None = None
    warmup: tuple[Warmup, ...] = ()
    version_policy: VersionPolicy = VersionPolicy(latest=1)
    keep_versions: int = Field(2, ge=1, description="Published versions kept on disk.")
    labels: dict[str, tuple[str, ...] | str] = Field(
        default_factory=dict,
        description="For an output of scores: its class names, or a file with one a line.",
    )


class ResidencySpec(Spec):
    """How the controller treats the model when memory is short."""

    priority: int = Field(
        5, ge=1, le=10, description="Who is evicted last; 1 is the most important."
    )
    pinned: bool = Field(False, description="Loaded at start and never evicted.")
    footprint: Bytes | None = Field(
        None, description="Memory when loaded. Measured where not given."
    )


class LimitsSpec(Spec):
    """What one model may take from the others."""

    max_concurrency: int | None = Field(None, ge=1, description="Requests inside Triton at once.")
    queue_limit: int | None = Field(None, ge=0, description="Requests that may wait; more get 503.")
    timeout_s: float | None = Field(None, gt=0, description="From arrival to answer.")


class PlacementLabels(Spec):
    """Labels that the placement of models on servers goes by."""

    model_tier: LabelValue | None = Field(None, alias="model-tier")
    latency_class: LabelValue | None = Field(None, alias="latency-class")
    gpu_sharing: LabelValue | None = Field(None, alias="gpu-sharing")
    tenant_scope: LabelValue | None = Field(None, alias="tenant-scope")


class ModelSpec(Spec):
    """One model: where it comes from, how it is exported, served and kept in memory."""

    description: str = ""
    source: Source
    export: ExportSpec = ExportSpec()
    profile: str | None = Field(None, description="A named serving profile.")
    serving: ServingSpec = ServingSpec()
    residency: ResidencySpec = ResidencySpec()
    limits: LimitsSpec = LimitsSpec()
    labels: PlacementLabels = PlacementLabels()

    @property
    def members(self) -> tuple[str, ...]:
        """The models that must be in memory for this one to answer."""
        if not isinstance(self.source, EnsembleSource):
            return ()
        return tuple(dict.fromkeys(step.model for step in self.source.steps))


class ServerSpec(Spec):
    """One tritonserver with one memory budget: a GPU, a MIG slice, or the host."""

    name: ModelName
    capacity: Bytes = Field(description="Memory that models may occupy.")
    margin: Bytes | None = Field(
        None,
        description="Kept free of it, for what footprints do not show yet, such as a batch larger "
        "than any before; 10 % of the capacity where not given.",
    )
    head_room: BytesOrPercentage = Field(
        0,
        description="Kept free beside the margin, as a size or as '10%' of the capacity: idle "
        "models leave before anybody needs their room. Spares a cold start the wait for its "
        "victim, at the price of fewer models in memory.",
    )
    launcher: str = Field("embedded", description="How it is started: a registered launcher.")
    http_url: str | None = Field(None, description="launcher external: host:port.")
    grpc_url: str | None = Field(None, description="launcher external: host:port.")

    @property
    def budget(self) -> int:
        """Bytes that models may be promised."""
        margin = int(MARGIN_SHARE * self.capacity) if self.margin is None else self.margin
        return self.capacity - margin

    @property
    def head_room_bytes(self) -> int:
        """Bytes of the budget that idle models do not get."""
        if isinstance(self.head_room, int):
            return self.head_room
        share = _PERCENTAGE.match(self.head_room)
        assert share, "validated"
        return int(float(share[1]) / 100 * self.capacity)


class Profile(Spec):
    """A named way of serving, shared by the models that mention it."""

    description: str = ""
    serving: ServingSpec = ServingSpec()


class Defaults(Spec):
    """What holds for every model that does not say otherwise."""

    profile: str | None = None
    serving: ServingSpec = ServingSpec()
    export: ExportSpec = ExportSpec()
    residency: ResidencySpec = ResidencySpec()
    limits: LimitsSpec = LimitsSpec()


BUILT_IN_PROFILES: Mapping[str, Mapping[str, Any]] = {
    "interactive": {
        "description": "A person waits: small batches, hardly any queueing delay.",
        "serving": {
            "max_batch_size": 8,
            "dynamic_batching": {"max_queue_delay_microseconds": 500},
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


class FleetSpec(Spec):
    """A whole fleet file."""

    name: ModelName = "fleet"
    settings: Settings = Settings()
    servers: tuple[ServerSpec, ...] = Field(min_length=1)
    profiles: dict[str, Profile] = Field(
        default_factory=dict,
        description="Added to, or replacing, the built-in interactive, bursty, batch and large.",
    )
    defaults: Defaults = Defaults()
    models: dict[ModelName, ModelSpec] = Field(min_length=1)

    def all_profiles(self) -> dict[str, Profile]:
        """The built-in profiles, with the file's own laid over them."""
        built_in = {name: Profile.model_validate(raw) for name, raw in BUILT_IN_PROFILES.items()}
        return {**built_in, **self.profiles}

    def serving(self, model: str) -> ServingSpec:
        """What holds for a model: its own entry > its profile > the fleet's defaults."""
        entry = self.models[model]
        profile = entry.profile or self.defaults.profile
        layers = [self.defaults.serving, entry.serving]
        if profile:
            layers.insert(1, self.all_profiles()[profile].serving)
        return ServingSpec.model_validate(overlay(*layers))

    def export(self, model: str) -> ExportSpec:
        """How a model is exported: its own entry > the fleet's defaults."""
        return ExportSpec.model_validate(overlay(self.defaults.export, self.models[model].export))

    def residency(self, model: str) -> ResidencySpec:
        """How a model is kept: its own entry > the fleet's defaults."""
        return ResidencySpec.model_validate(
            overlay(self.defaults.residency, self.models[model].residency)
        )

    def limits(self, model: str) -> LimitsSpec:
        """What a model may take: its own entry > the fleet's defaults."""
        return LimitsSpec.model_validate(overlay(self.defaults.limits, self.models[model].limits))

    def requires(self, model: str) -> tuple[str, ...]:
        """Every model that must be in memory before this one, members of members included."""
        found: dict[str, None] = {}
        for member in self.models[model].members:
            found.update(dict.fromkeys((*self.requires(member), member)))
        return tuple(found)


def overlay(*layers: Spec) -> dict[str, Any]:
    """Later layers over earlier ones, key by key; what a layer does not mention shows through."""
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge(merged, layer.model_dump(exclude_unset=True, by_alias=True))
    return merged


def _merge(under: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(under.get(key), dict):
            _merge(under[key], value)
        else:
            under[key] = dict(value) if isinstance(value, Mapping) else value
