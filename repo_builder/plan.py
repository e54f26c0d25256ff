"""Decides what a model needs: nothing, a new configuration, or a new artifact.

Only decides: reads files, compares digests, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from repo_builder.config import read_labels, template_folder
from repo_builder.fingerprint import Fingerprint, digest_of, package_versions
from repo_builder.sources.base import AssembledSource, Digest, Source
from repo_builder.workshop import Workshop
from tritonfleet.server.layout import ManifestEntry, model_versions, read_manifest


class Need(Enum):
    """What has to be done for a model."""

    NOTHING = auto()
    CONFIG = auto()
    """Its artifact is good; how it is served has changed."""
    FILES = auto()
    """Its source writes the files itself, in milliseconds."""
    EXPORT = auto()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a model needs, and why it can be told."""

    need: Need
    fingerprint: Fingerprint | None
    """None while the source is not on this machine."""
    published: ManifestEntry | None
    """What is published and intact."""


def plan(shop: Workshop, model: str, source: Source[object], digest: Digest) -> Plan:
    """The least that brings the repository up to date with the fleet file."""
    fingerprint = fingerprint_of(shop, model, source, digest)
    published = None if shop.force else _intact_entry(shop, model, digest)
    known = Fingerprint.parse(published.fingerprint) if published else None
    if fingerprint and fingerprint == known:
        need = Need.NOTHING
    elif isinstance(source, AssembledSource):
        need = Need.FILES
    elif fingerprint and known and fingerprint.artifact == known.artifact:
        need = Need.CONFIG
    else:
        need = Need.EXPORT
    return Plan(need, fingerprint, published)


def fingerprint_of(
    shop: Workshop, model: str, source: Source[object], digest: Digest
) -> Fingerprint | None:
    """Over all that shapes a model; None while its source is not on this machine."""
    spec, serving = shop.fleet.models[model], shop.fleet.serving(model)
    state = source.state(spec.source, shop.context(model), digest)
    if state is None:
        return None
    published = read_manifest(shop.repository).models
    artifact = {
        "source": spec.source.model_dump(mode="json"),
        "state": state,
        "export": shop.fleet.export(model).model_dump(mode="json"),
        "packages": package_versions(),
        "members": {name: published[name].fingerprint for name in spec.members},
    }
    config = {
        "serving": serving.model_dump(mode="json"),
        "labels": read_labels(model, serving, shop.base),
        "templates": digest(template_folder()),
    }
    return Fingerprint(digest_of(artifact), digest_of(config))


def published_digest(folder: Path, version: int, digest: Digest) -> str:
    """Over a model's configuration, its labels and one version's files."""
    files = {file.name: digest(file) for file in sorted(folder.iterdir()) if file.is_file()}
    return digest_of({"files": files, "version": digest(folder / str(version))})


def _intact_entry(shop: Workshop, model: str, digest: Digest) -> ManifestEntry | None:
    """The manifest's entry, if what it speaks of is still there, byte for byte."""
    entry = read_manifest(shop.repository).models.get(model)
    folder = shop.repository / model
    if entry is None or model_versions(folder)[-1:] != (entry.version,):
        return None
    return entry if published_digest(folder, entry.version, digest) == entry.digest else None
