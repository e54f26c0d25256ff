"""Puts an earlier version of a model back in service, as a new version with a higher number.

Triton serves the highest, and its response cache knows answers by version: going back in numbers
would serve what the cache has of the bad one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from repo_builder.fingerprint import DigestCache
from repo_builder.plan import published_digest
from repo_builder.publishing.joints import broken_joints
from repo_builder.publishing.publish import commit, link_tree, stage_files
from repo_builder.publishing.staging import open_staging
from tritonfleet.errors import InvalidModelConfig, ModelNotFound, PublishFailed
from tritonfleet.server.layout import (
    CONFIG_NAME,
    EarlierVersion,
    ManifestEntry,
    model_versions,
    read_manifest,
)
from tritonfleet.server.pbtxt import parse_config


@dataclass(frozen=True, slots=True)
class Restored:
    """What a rollback did."""

    model: str
    replaced: int
    """The version that was served before."""
    earlier: int
    """The version whose files are served again."""
    version: int
    """Their new number."""
    rejected: str | None
    """The fingerprint that is not built again."""

    def to_json(self) -> dict[str, Any]:
        """What was done, for machines."""
        return {
            "model": self.model,
            "replaced": self.replaced,
            "earlier": self.earlier,
            "version": self.version,
            "rejected": self.rejected,
        }


def roll_back(
    model: str, repository: Path, digests: Path, to: int | None = None, *, now: datetime
) -> Restored:
    """Publishes an earlier version anew: the one before the present, or the one asked for.

    Raises ModelNotFound; PublishFailed when there is no such version; InvalidModelConfig when an
    ensemble would no longer fit.
    """
    with open_staging(repository) as staging:
        manifest = read_manifest(repository)
        if model not in manifest.models:
            raise ModelNotFound(model, tuple(manifest.models))
        entry = manifest.models[model]
        target = choose_version(model, entry, model_versions(repository / model), to)
        return _Rollback(model, entry, target, repository, staging, digests).carry_out(now)


def choose_version(
    model: str, entry: ManifestEntry, present: tuple[int, ...], to: int | None
) -> int:
    """The version to go back to; PublishFailed when it is not kept.

    After a rollback it is the one before the version that was restored, and not the one that was
    left: two rollbacks go two steps back.
    """
    kept = [version for version in sorted(entry.earlier) if version in present]
    reference = entry.version if entry.restored is None else entry.restored
    if to is None:
        older = [version for version in kept if version < reference]
        if older:
            return older[-1]
        cause = f"no version before {reference} is kept"
    elif to in kept:
        return to
    elif to == entry.version:
        cause = f"version {to} is the one that is served"
    else:
        cause = f"version {to} is not kept"
    raise PublishFailed(model, cause, _kept_hint(kept))


def _kept_hint(kept: list[int]) -> str:
    if kept:
        return f"Name one of these with --to: {', '.join(map(str, kept))}."
    return "Raise serving.keep_versions, so that the next builds keep more."


@dataclass(frozen=True, slots=True)
class _Rollback:
    model: str
    entry: ManifestEntry
    target: int
    repository: Path
    staging: Path
    digests: Path

    @property
    def earlier(self) -> EarlierVersion:
        return self.entry.earlier[self.target]

    def carry_out(self, now: datetime) -> Restored:
        files = self.earlier.contents()
        config = parse_config(self.model, files[CONFIG_NAME].decode())
        self._check_joints(config)
        contents = self.staging / f"{self.model}.version"
        link_tree(self.repository / self.model / str(self.target), contents)
        # Going back is no time to take versions away.
        keep = len(model_versions(self.repository / self.model)) + 1
        staged = stage_files(
            self.model, contents, files, keep, self.repository, self.staging, now=now
        )
        self._check_served(config, staged.version)
        digest = DigestCache.load(self.digests)
        entry = self._entry(staged.version, published_digest(staged.folder, staged.version, digest),
                            now)  # fmt: skip
        commit(staged, entry, self.repository, digest)
        return Restored(self.model, self.entry.version, self.target, staged.version, entry.rejected)

    def _check_joints(self, config: Any) -> None:
        problems = broken_joints(self.model, config, self.repository)
        if problems:
            hint = "Roll its ensemble or its members back first, or choose another version."
            raise InvalidModelConfig(self.model, "; ".join(problems), hint)

    def _check_served(self, config: Any, version: int) -> None:
        named = tuple(config.version_policy.specific.versions)
        if named and version not in named:
            cause = f"version {self.target} was published to serve the versions {list(named)} only"
            hint = "Name the version to serve in serving.version_policy, and build."
            raise PublishFailed(self.model, cause, hint)

    def _entry(self, version: int, digest: str, now: datetime) -> ManifestEntry:
        """The earlier entry, less what has become untrue of it."""
        restored = ManifestEntry.model_validate(self.earlier.entry)
        # What the fleet file asks for is what was left first, however often one goes back.
        left = self.entry.rejected or self.entry.fingerprint
        origin = self.target if restored.restored is None else restored.restored
        return restored.model_copy(
            update={
                "version": version,
                "digest": digest,
                "rejected": None if left == restored.fingerprint else left,
                "restored": origin,
                "built_at": now.astimezone(timezone.utc).isoformat(timespec="seconds"),
            }
        )
