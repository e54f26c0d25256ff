"""What makes artifacts: exporters, of loaded modules, and variant makers, of ONNX files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from repo_builder.judging.reference import Tensors
from repo_builder.signature import Signature
from repo_builder.sources.base import Checkpoint
from tritonfleet.spec.export import ExportSpec

VariantT = TypeVar("VariantT")


class Exporter(ABC):
    """Turns a loaded module into an artifact in one format."""

    backend: ClassVar[str]
    """The Triton backend that runs the artifact."""
    artifact_name: ClassVar[str]
    """The artifact's file name in a version folder."""

    @abstractmethod
    def export(self, model: str, checkpoint: Checkpoint, spec: ExportSpec, folder: Path) -> Path:
        """Writes the artifact into a version folder and returns its path; raises ExportFailed."""

    @abstractmethod
    def signature(self, model: str, artifact: Path, checkpoint: Checkpoint) -> Signature:
        """What the artifact takes and gives, as the artifact itself says it where it can."""


@dataclass(frozen=True, slots=True)
class VariantOrder(Generic[VariantT]):
    """All that a variant maker needs to know."""

    model: str
    spec: VariantT
    onnx: Path
    """The exported file; external data may lie beside it."""
    signature: Signature
    """Of that file."""
    folder: Path
    """The empty version folder to fill."""
    cache: Path
    """A folder that outlives the build, such as for timing caches."""
    calibration: Sequence[Tensors] = ()
    """Real requests, rows of several batched where the model batches."""
    max_batch_size: int = 8
    """The largest batch that the model will be served with; 0 where it does not batch."""
    longest: int | None = None
    """The longest sequence it was made for."""


@dataclass(frozen=True, slots=True)
class Made:
    """A finished variant."""

    artifact: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest should keep: for an engine, the versions, GPU and driver it is bound to."""


class VariantMaker(ABC, Generic[VariantT]):
    """Derives an artifact from an exported ONNX file; knows no PyTorch."""

    backend: ClassVar[str]
    artifact_name: ClassVar[str]

    @abstractmethod
    def make(self, order: VariantOrder[VariantT]) -> Made:
        """Fills the order's folder; raises VariantFailed, naming what is missing and what to do."""

    @abstractmethod
    def signature(self, order: VariantOrder[VariantT], made: Made) -> Signature:
        """What the finished artifact takes and gives."""
