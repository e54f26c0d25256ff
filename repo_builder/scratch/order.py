"""What the scratch server is asked to prove, and what it found. Facts only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from repo_builder.judging.gates import Gate
from repo_builder.judging.reference import Array, Reference
from tritonfleet.server.layout import Footprint, ProofRecord


@dataclass(frozen=True, slots=True)
class ProofOrder:
    """One staged model, and what it must do."""

    model: str
    folder: Path
    """The staged model's folder: config.pbtxt, labels, versions."""
    version: int
    """The new one."""
    config: Any
    """The ``ModelConfig`` that the folder holds as text."""
    proof: Literal["infer", "load", "off"] = "infer"
    members: Mapping[str, Path] = field(default_factory=dict)
    """Of an ensemble: the folders, published or staged, of all it needs, members' members too."""
    reference: Reference | None = None
    """Inputs, and the original's answers to them."""
    gate: Gate | None = None
    """How far the answers may be from the original's; they are not compared without it."""
    examples: Mapping[str, Array] | None = None
    """Rows of real inputs, for a model that has no reference."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of one order that did not fail."""

    record: ProofRecord | None = None
    """None where nothing was proved: ``warning`` says why."""
    footprint: Footprint | None = None
    """None where it cannot be told, and for ensembles, which take nothing of their own."""
    warning: str | None = None
