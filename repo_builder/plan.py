"""Decides what a model needs: nothing, a new configuration, or a new artifact.

Only decides: reads files, compares digests, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from repo_builder.config.render import data_file_names, read_labels, template_folder
from repo_builder.fingerprint import Fingerprint, digest_of, package_versions
from repo_builder.sources.base import AssembledSource, Digest, Source, SourceContext
from repo_builder.sources.location import artifact_state
from repo_builder.workshop import Workshop
from tritonfleet.server.layout import Manifest, ManifestEntry, is_version, model_versions
from tritonfleet.spec.export import ExportSpec

ARTIFACT_PARTS = ("source", "state", "export", "packages", "members")
"""What a new artifact follows from; a change of the other parts rewrites config.pbtxt only."""


class Need(Enum):
    """What has to be done for a model."""

    NOTHING = auto()
    REJECTED = auto()
    """Nothing: a rollback has left behind what would come out."""
    CONFIG = auto()
    """Its artifact is good; how it is served has changed."""
    FILES = auto()
    """Its source writes the files itself, in milliseconds."""
    EXPORT = auto()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a model needs, and why it can be told."""

    need: Need
    parts: dict[str, str] | None
    """Digests of all that shapes the model; None while the source is not on this machine."""
    published: ManifestEntry | None
    """What is published and intact."""


def plan(
    shop: Workshop, model: str, source: Source[object], digest: Digest, manifest: Manifest
) -> Plan:
    """The least that brings the repository up to date with the fleet file."""
    parts = parts_of(shop, model, source, digest, manifest)
    published = None if shop.force else _intact_entry(shop, model, digest, manifest)
    found = fingerprint_of(parts) if parts else None
    known = Fingerprint.parse(published.fingerprint) if published else None
    if found and found == known:
        need = Need.NOTHING
    elif found and published and published.rejected == str(found):
        need = Need.REJECTED
    elif isinstance(source, AssembledSource):
        need = Need.FILES
    elif found and known and found.artifact == known.artifact:
        need = Need.CONFIG
    else:
        need = Need.EXPORT
    return Plan(need, parts, published)


def fingerprint_of(parts: dict[str, str]) -> Fingerprint:
    """Both halves of the parts."""
    artifact = {name: parts[name] for name in ARTIFACT_PARTS}
    config = {name: part for name, part in parts.items() if name not in ARTIFACT_PARTS}
    return Fingerprint(digest_of(artifact), digest_of(config))


def parts_of(
    shop: Workshop, model: str, source: Source[object], digest: Digest, manifest: Manifest
) -> dict[str, str] | None:
    """A digest for each thing that shapes a model; None while its source is not here."""
    spec, serving = shop.fleet.models[model], shop.fleet.serving(model)
    context = shop.context(model)
    state = source.state(spec.source, context, digest)
    if state is None:
        return None
    export = shop.fleet.export(model)
    facts = {
        "source": spec.source.model_dump(mode="json"),
        "state": {**state, **_export_state(export, context, digest)},
        "export": export.model_dump(mode="json"),
        "packages": package_versions(),
        "members": {name: manifest.models[name].fingerprint for name in spec.members},
        "serving": serving.model_dump(mode="json"),
        "labels": read_labels(model, serving, shop.base),
        "data_files": {name: digest(shop.base / name) for name in data_file_names(serving)},
        "templates": digest(template_folder()),
    }
    return {name: digest_of({name: fact}) for name, fact in facts.items()}


def _export_state(export: ExportSpec, context: SourceContext, digest: Digest) -> dict[str, Any]:
    """Of the files that the export options name."""
    state: dict[str, Any] = {}
    if export.examples:
        state["examples"] = artifact_state(export.examples, context, digest)
    if export.metric and export.metric.python_path:
        state["metric"] = digest(context.base / export.metric.python_path)
    return state


def published_digest(folder: Path, version: int, digest: Digest) -> str:
    """Over one version's files and all that lies beside the versions."""
    beside = (path for path in sorted(folder.iterdir()) if not is_version(path.name))
    parts = {path.name: digest(path) for path in beside}
    return digest_of({"files": parts, "version": digest(folder / str(version))})


def _intact_entry(
    shop: Workshop, model: str, digest: Digest, manifest: Manifest
) -> ManifestEntry | None:
    """The manifest's entry, if what it speaks of is still there, byte for byte."""
    entry = manifest.models.get(model)
    folder = shop.repository / model
    if entry is None or model_versions(folder)[-1:] != (entry.version,):
        return None
    return entry if published_digest(folder, entry.version, digest) == entry.digest else None
