"""How a Triton model repository lies on disk, and the manifest that the builder leaves in it.

    model_repository/
      manifest.json
      <model>/config.pbtxt
      <model>/<version>/model.onnx

Reading only, but for ``write_manifest``; publishing is the builder's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tritonfleet.errors import InvalidSpec, Problem

CONFIG_NAME = "config.pbtxt"
MANIFEST_NAME = "manifest.json"


class ParityRecord(BaseModel):
    """How closely an artifact follows its original."""

    model_config = ConfigDict(frozen=True)

    worst: float
    """max|difference| / max|reference|, over all outputs and cases."""
    tolerance: float
    worst_case: str
    cases: int


class ManifestEntry(BaseModel):
    """What the builder knows of one published model."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    """Of source, spec and exporter versions; equal fingerprints need no rebuild."""
    version: int
    backend: str
    source: dict[str, Any]
    digest: str
    """SHA-256 over the published files of this version."""
    artifact_bytes: int
    requires: tuple[str, ...] = ()
    random_weights: bool = False
    parity: ParityRecord | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    """What was measured on held-out data, such as accuracy."""
    packages: dict[str, str] = Field(default_factory=dict)
    timings_s: dict[str, float] = Field(default_factory=dict)
    built_at: str = ""


class Manifest(BaseModel):
    """All of ``manifest.json``."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    models: dict[str, ManifestEntry] = Field(default_factory=dict)

    def with_entry(self, model: str, entry: ManifestEntry) -> Manifest:
        """The manifest with one model's entry replaced."""
        return self.model_copy(update={"models": {**self.models, model: entry}})


def read_manifest(repository: Path) -> Manifest:
    """The repository's manifest; an empty one where none was written.

    Raises InvalidSpec when the file is damaged.
    """
    path = repository / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Manifest()
    except ValidationError as error:
        cause = f"not a manifest: {error.errors()[0]['msg']}"
        hint = "delete it and run 'tritonfleet build'"
        raise InvalidSpec(str(path), (Problem("", cause, suggestion=hint),)) from error


def write_manifest(repository: Path, manifest: Manifest) -> None:
    """Replaces the manifest in one step, so that readers see the old or the new one."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    replace_text(repository / MANIFEST_NAME, text)


def replace_text(path: Path, text: str) -> None:
    """Writes a file so that it is whole or untouched, also when the power fails."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def model_versions(model_directory: Path) -> tuple[int, ...]:
    """The version numbers Triton would see, ascending: it ignores 'v1' and '007'."""
    if not model_directory.is_dir():
        return ()
    names = (entry.name for entry in model_directory.iterdir() if entry.is_dir())
    return tuple(sorted(int(name) for name in names if name == "0" or _is_version(name)))


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0")


def published_models(repository: Path) -> tuple[str, ...]:
    """The models with a config.pbtxt, sorted by name."""
    if not repository.is_dir():
        return ()
    return tuple(sorted(path.parent.name for path in repository.glob(f"[!.]*/{CONFIG_NAME}")))


def directory_bytes(directory: Path) -> int:
    """The sizes of all files below a folder, added up."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def artifact_bytes(repository: Path, manifest: Mapping[str, ManifestEntry], model: str) -> int:
    """Bytes of a model's newest version: from the manifest, or from the disk without one."""
    if model in manifest:
        return manifest[model].artifact_bytes
    versions = model_versions(repository / model)
    return directory_bytes(repository / model / str(versions[-1])) if versions else 0
