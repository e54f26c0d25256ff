"""The fleet file as types: what may be written, what it defaults to, what it means.

Frozen pydantic models, so that the JSON Schema for editors comes from the same source. Names are
Triton's wherever Triton has one; their meaning is told in Triton's model configuration document.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from tritonfleet.settings import Settings
from tritonfleet.spec.base import ModelName, Spec, overlay
from tritonfleet.spec.containers import ContainerSpec
from tritonfleet.spec.export import ExportSpec
from tritonfleet.spec.serving import BUILT_IN_PROFILES, ServingSpec
from tritonfleet.spec.sources import EnsembleSource, Source
from tritonfleet.spec.traffic import (
    AccessSpec,
    LimitsSpec,
    MirrorSpec,
    RolloutSpec,
    SecretReference,
)
from tritonfleet.units import Bytes, parse_bytes

LabelValue = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$", max_length=63)
]
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


class ResidencySpec(Spec):
    """How the controller treats the model when memory is short."""

    priority: int = Field(
        5, ge=1, le=10, description="Who is evicted last; 1 is the most important."
    )
    pinned: bool = Field(False, description="Loaded at start and never evicted.")
    footprint: Bytes | None = Field(
        None, description="Memory when loaded. Measured where not given."
    )


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
    fallback: tuple[ModelName, ...] = Field(
        (), description="Models of the same signature that answer, in turn, when this one cannot."
    )
    mirror: MirrorSpec | None = None
    rollout: RolloutSpec = RolloutSpec()
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
    metrics_url: str | None = Field(None, description="launcher external: host:port, if known.")
    admin_secret: SecretReference | None = Field(
        None,
        description="launcher external: what opens its restricted APIs, as env:NAME or file:PATH; "
        "sent as the header 'tritonfleet-admin'.",
    )
    container: ContainerSpec = ContainerSpec()

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
    rollout: RolloutSpec = RolloutSpec()


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
    access: AccessSpec = AccessSpec()
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

    def rollout(self, model: str) -> RolloutSpec:
        """How a new version comes into service: its own entry > the fleet's defaults."""
        return RolloutSpec.model_validate(
            overlay(self.defaults.rollout, self.models[model].rollout)
        )

    def requires(self, model: str) -> tuple[str, ...]:
        """Every model that must be in memory before this one, members of members included."""
        found: dict[str, None] = {}
        for member in self.models[model].members:
            found.update(dict.fromkeys((*self.requires(member), member)))
        return tuple(found)
