"""Copies of remote artifacts, by the digest of their content.

``content/DIGEST/NAME`` holds an artifact; ``known/ADDRESS/VERSION.json`` tells which content an
address had in a version. Downloads happen in ``partial`` and are renamed in when they are whole, by
one process at a time: what lies under ``content`` is complete. The folder may be deleted whenever
no build runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from repo_builder.fingerprint import sha256_of
from tritonfleet.server.layout import replace_text

_KEY_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Content:
    """An artifact in the cache: its digest, its own name, and the size of each file."""

    digest: str
    name: str
    sizes: dict[str, int]
    """By relative path; '.' where the artifact is a file."""


@dataclass(frozen=True, slots=True)
class Cache:
    """The copies of one address."""

    root: Path
    address: str

    @property
    def _known(self) -> Path:
        return self.root / "known" / _key(self.address)

    def path(self, content: Content) -> Path:
        """Where the artifact lies."""
        return self.root / "content" / content.digest / content.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other builds from bringing the same at the same time; a dead one frees the lock."""
        self._known.mkdir(parents=True, exist_ok=True)
        with (self._known / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def find(self, version: str) -> Content | None:
        """What the address held in a version, if all of it is here."""
        return self._whole(self._record(version))

    def newest(self) -> Content | None:
        """What the address held when it was last asked."""
        records = sorted(self._known.glob("*.json"), key=_modified_at, reverse=True)
        found = (self._whole(record) for record in records)
        return next((content for content in found if content is not None), None)

    def confirm(self, version: str) -> None:
        """Notes that this version is the newest."""
        self._record(version).touch()

    @contextmanager
    def room(self) -> Iterator[Path]:
        """An empty folder to download into, for the holder of the lock; gone afterwards."""
        folder = self.root / "partial" / _key(self.address)
        # Whoever holds the lock is alone: what lies here was left by a killed build.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, version: str | None, payload: Path) -> Content:
        """Takes the room with a whole download; without a version it is known by its digest."""
        content = _describe(payload)
        if not self.is_intact(content):
            self._move_in(payload.parent, content)
        record = self._record(version or content.digest)
        replace_text(record, json.dumps({"address": self.address, **asdict(content)}) + "\n")
        return content

    def is_intact(self, content: Content) -> bool:
        """Whether the copy is still, byte for byte, what was brought."""
        path = self.path(content)
        return path.exists() and _describe(path).digest == content.digest

    def _move_in(self, folder: Path, content: Content) -> None:
        target = self.path(content).parent
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(target)
        except OSError:
            # Another address with the same content may have been quicker; else it is damaged.
            if not self.is_intact(content):
                shutil.rmtree(target, ignore_errors=True)
                folder.rename(target)

    def _record(self, version: str) -> Path:
        return self._known / f"{_key(version)}.json"

    def _whole(self, record: Path) -> Content | None:
        try:
            raw = json.loads(record.read_text(encoding="utf-8"))
            content = Content(raw["digest"], raw["name"], dict(raw["sizes"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return content if self._whole_at(content) else None

    def _whole_at(self, content: Content) -> bool:
        path = self.path(content)
        return path.exists() and _sizes(path) == content.sizes


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


def _modified_at(file: Path) -> int:
    return file.stat().st_mtime_ns


def _files(path: Path) -> list[tuple[str, Path]]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sorted((file.relative_to(path).as_posix(), file) for file in files)


def _sizes(path: Path) -> dict[str, int]:
    return {name: file.stat().st_size for name, file in _files(path)}


def _describe(payload: Path) -> Content:
    lines = [payload.name, *(f"{sha256_of(file)} {name}" for name, file in _files(payload))]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return Content(digest, payload.name, _sizes(payload))
