"""What a source and its exporter hand to the rest of the pipeline. Facts only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repo_builder.signature import Signature
from tritonfleet.server.layout import ManifestEntry, Measurement, ParityRecord, VariantRecord


@dataclass(frozen=True, slots=True)
class Step:
    """One member of an ensemble, with every tensor that passes named."""

    model: str
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Product:
    """A finished version folder and what is known about it."""

    backend: str
    """The backend's name; empty for an ensemble, which has none."""
    signature: Signature
    batch_limit: int | None = None
    """The largest batch it can take, where something other than memory bounds it."""
    steps: tuple[Step, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Class names that came with the source, by output."""
    optional_inputs: tuple[str, ...] = ()
    """What an ensemble's requests may leave out, because its members do without."""
    parity: ParityRecord | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest should say of the source beyond the fleet file."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    variant: str = ""
    """The name of the published one of ``variants``."""
    variants: tuple[VariantRecord, ...] = ()
    original: Measurement | None = None
    original_metric: float | None = None
    reference: Path | None = None
    """A folder with inputs and the original's answers, for the scratch server (reference.py)."""


def published_product(entry: ManifestEntry) -> Product:
    """What an earlier build made, as its manifest entry tells."""
    return Product(
        entry.backend,
        Signature.from_texts(entry.signature),
        labels={name: tuple(row) for name, row in entry.source.get("labels", {}).items()},
        parity=entry.parity,
        metrics=entry.metrics,
        facts={
            key: entry.source[key]
            for key in ("commit", "max_length", "task")
            if key in entry.source
        },
        packages=entry.packages,
        variant=entry.variant,
        variants=entry.variants,
        original=entry.original,
        original_metric=entry.original_metric,
    )
