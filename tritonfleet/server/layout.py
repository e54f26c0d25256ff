"""How a Triton model repository lies on disk, and the manifest that the builder leaves in it.

    model_repository/
      manifest.json
      <model>/config.pbtxt
      <model>/<version>/model.onnx

Reading only, but for ``write_manifest``; publishing is the builder's.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tritonfleet.errors import InvalidSpec, Problem

CONFIG_NAME = "config.pbtxt"
MANIFEST_NAME = "manifest.json"


class Record(BaseModel):
    """A frozen part of the manifest."""

    model_config = ConfigDict(frozen=True)


class ParityRecord(Record):
    """How closely an artifact follows its original, over all outputs and cases."""

    worst: float
    """max|difference| / max|reference|."""
    tolerance: float | None
    """What was allowed of it; None where the precision is judged by the figures below."""
    worst_case: str
    cases: int
    precision: str = "fp32"
    cosine_similarity: float | None = None
    """The smallest of any row of any output; None where it was not judged."""
    argmax_agreement: float | None = None
    top_k_agreement: float | None = None
    token_agreement: float | None = None
    outputs: dict[str, float] = Field(default_factory=dict)
    """For each output, the worst difference as above."""


class Measurement(Record):
    """How fast a candidate answered on the building machine, and what it held."""

    latency_ms: dict[int, float]
    """Median of one execution, by batch size."""
    memory_bytes: int | None = None
    """What loading it and running the largest batch added to a process."""

    @property
    def rows_per_s(self) -> float:
        """The best throughput over the batch sizes."""
        return max(1000 * batch / ms for batch, ms in self.latency_ms.items())


class VariantRecord(Record):
    """One candidate of a build: an exporter's artifact or a variant of it."""

    name: str
    exporter: str
    backend: str
    precision: str
    status: Literal["published", "passed", "failed"]
    error: str | None = None
    artifact_bytes: int = 0
    parity: ParityRecord | None = None
    metric: float | None = None
    """What the fleet file's metric gave for it."""
    measured: Measurement | None = None
    seconds: float = 0.0
    """To make and to check."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """For engines: versions, GPU and driver they were built with."""


class Footprint(Record):
    """Bytes that a model was seen to take, alone in a server."""

    weights_bytes: int
    """Once loaded, all instances."""
    peak_bytes: int
    """After its largest declared batch, all instances."""
    instances: int
    shared_weights: bool
    """Whether its instances work over one set of weights; so their number costs little."""
    home: Literal["process", "server", "device"]
    """Where it lived: in processes of its own, inside tritonserver, or in a GPU's memory."""
    batch_size: int
    """Of the largest request it was asked."""


class ProofRecord(Record):
    """What a scratch tritonserver did with a model before it was published."""

    server: str
    """Name and version, and what ran the model."""
    load_s: float
    batch_sizes: tuple[int, ...] = ()
    """One inference each; empty when it was only loaded."""
    worst: float | None = None
    """max|difference| / max|original|, where the original's answers are known."""


class EarlierVersion(Record):
    """A version kept on disk beside the newest, with all that a rollback needs."""

    entry: dict[str, Any]
    """Its manifest entry, without versions earlier still."""
    files: dict[str, str]
    """config.pbtxt, labels and what else lay beside the versions: name and content, base64."""

    @classmethod
    def of(cls, entry: dict[str, Any], files: Mapping[str, bytes]) -> EarlierVersion:
        """Of an entry and the files as they are."""
        coded = {name: base64.b64encode(content).decode() for name, content in files.items()}
        return cls(entry=entry, files=coded)

    def contents(self) -> dict[str, bytes]:
        """The files as they were."""
        return {name: base64.b64decode(content) for name, content in self.files.items()}


class ManifestEntry(Record):
    """What the builder knows of one published model."""

    fingerprint: str
    """Of source, spec and exporter versions; equal fingerprints need no rebuild."""
    version: int
    backend: str
    source: dict[str, Any]
    digest: str
    """SHA-256 over the published files of this version."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each published file of every version, by its path in the model's folder."""
    parts: dict[str, str] = Field(default_factory=dict)
    """Digests of what the fingerprint is made of, to tell which of it has changed."""
    artifact_bytes: int
    requires: tuple[str, ...] = ()
    random_weights: bool = False
    signature: dict[str, dict[str, str]] = Field(default_factory=dict)
    """'inputs' and 'outputs': by name, the type and shape, such as 'INT64[batch, sequence]'."""
    variant: str = ""
    """The published one of ``variants``."""
    variants: tuple[VariantRecord, ...] = ()
    original: Measurement | None = None
    """The original, eager PyTorch, on the same inputs in the same run as the variants."""
    original_metric: float | None = None
    parity: ParityRecord | None = None
    proof: ProofRecord | None = None
    footprint: Footprint | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    """What was measured on held-out data, such as accuracy."""
    packages: dict[str, str] = Field(default_factory=dict)
    timings_s: dict[str, float] = Field(default_factory=dict)
    built_at: str = ""
    warnings: tuple[str, ...] = ()
    earlier: dict[int, EarlierVersion] = Field(default_factory=dict)
    rejected: str | None = None
    """The fingerprint that a rollback left behind: it is not built again until it changes."""
    restored: int | None = None
    """The earlier version that a rollback published anew as this one."""


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
    # Models sorted, so that two builds compare; what is inside keeps its order, which has meaning.
    ordered = manifest.model_copy(update={"models": dict(sorted(manifest.models.items()))})
    text = json.dumps(ordered.model_dump(mode="json"), indent=2) + "\n"
    replace_text(repository / MANIFEST_NAME, text)


def replace_text(path: Path, text: str) -> None:
    """Writes a file so that it is whole or untouched, also when the power fails."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
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
    return tuple(sorted(int(name) for name in names if is_version(name)))


def is_version(name: str) -> bool:
    """Whether Triton takes a folder of this name for a version."""
    return name == "0" or (name.isascii() and name.isdigit() and not name.startswith("0"))


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
