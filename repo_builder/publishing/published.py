"""What a repository has of a model, and what of it stays beside a new version."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from repo_builder.fingerprint import files_below
from repo_builder.publishing.versions import served_versions, superseded_s, versions_to_keep
from repo_builder.sources.base import Digest
from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.layout import (
    CONFIG_NAME,
    EarlierVersion,
    ManifestEntry,
    model_versions,
    read_manifest,
)
from tritonfleet.server.pbtxt import parse_config, read_config

_IO_FIELDS = ("backend", "platform", "max_batch_size", "input", "output")


@dataclass(frozen=True, slots=True)
class Published:
    """What a repository has of a model."""

    folder: Path
    versions: tuple[int, ...]
    config: Any
    """None where there is none that parses."""
    entry: ManifestEntry | None

    @classmethod
    def read(cls, model: str, repository: Path) -> Published:
        """What is there now; nothing is there before a first publication."""
        try:
            config = read_config(repository, model)
        except (InvalidModelConfig, UnicodeDecodeError):
            config = None
        folder = repository / model
        entry = read_manifest(repository).models.get(model)
        return cls(folder, model_versions(folder), config, entry)

    def kept(self, new: int, config: Any, keep: int, now: datetime) -> tuple[int, ...]:
        """The versions that stay beside a new one."""
        served = () if self.config is None else self._served()
        return versions_to_keep(
            new,
            self.versions,
            keep,
            config.version_policy,
            read_now=served,
            superseded_s=superseded_s(self.entry, now),
            fits=lambda version: _same_interface(self._config_of(version), config),
        )

    def _served(self) -> tuple[int, ...]:
        return served_versions(self.config.version_policy, self.versions)

    def _config_of(self, version: int) -> Any:
        """What a version takes and gives: its own configuration, or the one it lies beside."""
        earlier = self.entry.earlier.get(version) if self.entry else None
        if earlier is None:
            return self.config
        return parse_config(self.folder.name, earlier.contents()[CONFIG_NAME].decode())

    def completed(
        self, entry: ManifestEntry, folder: Path, version: int, digest: Digest
    ) -> ManifestEntry:
        """A new version's entry with the digests of all files and what rollbacks need.

        ``folder`` is the model's as it will be published.
        """
        older = [number for number in model_versions(folder) if number != version]
        files = {
            name: self._known_digest(name, path) or digest(path)
            for name, path in files_below(folder)
        }
        return entry.model_copy(update={"files": files, "earlier": self._earlier(older)})

    def _known_digest(self, name: str, path: Path) -> str | None:
        """Of a file that was linked, and so need not be read again."""
        known = self.entry.files.get(name) if self.entry else None
        published = self.folder / name
        return known if known and published.exists() and published.samefile(path) else None

    def _earlier(self, kept: Iterable[int]) -> dict[int, EarlierVersion]:
        """What a rollback to each of these versions needs."""
        if self.entry is None:
            return {}
        known = dict(self.entry.earlier)
        if self.config is not None:
            entry = self.entry.model_dump(mode="json", exclude={"earlier", "files"})
            contents = {name: path.read_bytes() for name, path in side_files(self.folder).items()}
            known[self.entry.version] = EarlierVersion.of(entry, contents)
        return {version: known[version] for version in kept if version in known}


def side_files(folder: Path) -> dict[str, Path]:
    """The files of a model that lie beside its versions, by path: config.pbtxt, labels and more."""
    versions = {str(version) for version in model_versions(folder)}
    return {
        name: path for name, path in files_below(folder) if name.partition("/")[0] not in versions
    }


def _same_interface(one: Any, other: Any) -> bool:
    """Whether two configurations take and give the same."""
    return one is not None and all(getattr(one, n) == getattr(other, n) for n in _IO_FIELDS)
