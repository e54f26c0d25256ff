"""What an exporter is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from repo_builder.sources.base import Checkpoint
from tritonfleet.spec.fleet import ExportSpec


class Exporter(ABC):
    """Turns a loaded module into an artifact in one format."""

    backend: ClassVar[str]
    """The Triton backend that runs the artifact."""
    artifact_name: ClassVar[str]
    """The artifact's file name in a version folder."""

    @abstractmethod
    def export(self, model: str, checkpoint: Checkpoint, spec: ExportSpec, folder: Path) -> Path:
        """Writes the artifact into a version folder and returns its path; raises ExportFailed."""
