"""Proves that a repository is what its manifest says, and that two replicas are the same.

Every byte is read: the sizes and times that spare a build its reading could be made to lie.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from repo_builder.fingerprint import files_below, sha256_of
from tritonfleet.errors import PublishFailed
from tritonfleet.server.layout import Manifest, read_manifest

Kind = Literal["missing", "changed", "extra", "unrecorded", "link", "unreadable", "different"]
_MEANINGS: Mapping[Kind, str] = {
    "missing": "in the manifest, but not on disk",
    "changed": "not the bytes that were published",
    "extra": "on disk, but not in the manifest",
    "unrecorded": "published without digests of its files: build it again",
    "link": "a symbolic link; the builder publishes none",
    "unreadable": "cannot be read",
    "different": "not the same in the other repository",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be."""

    path: str
    """From the repository's folder."""
    kind: Kind
    detail: str = ""

    def __str__(self) -> str:
        more = f" ({self.detail})" if self.detail else ""
        return f"{self.path}: {_MEANINGS[self.kind]}{more}"


@dataclass(frozen=True, slots=True)
class Contents:
    """All that lies in the model folders of a repository."""

    digests: Mapping[str, str]
    """Of each file that could be read, by path."""
    troubles: tuple[Difference, ...]
    """Links, and files that could not be read."""
    size: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was read, and what of it is wrong."""

    files: int
    size: int
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """The verdict for machines."""
        return {
            "ok": not self.differences,
            "files": self.files,
            "bytes": self.size,
            "differences": [asdict(difference) for difference in self.differences],
        }


Advance = Callable[[int], None]


def verify(
    repository: Path, other: Path | None = None, advance: Advance = lambda _: None
) -> Verdict:
    """Compares a repository with its manifest, and with another repository when one is given.

    ``advance`` is told of each file's bytes as they have been read, from several threads.
    """
    contents, manifest = read_contents(repository, advance), read_manifest(repository)
    found = [*contents.troubles, *against_manifest(contents, manifest)]
    if other is not None:
        theirs = read_contents(other, advance)
        found += [*against_other(contents.digests, theirs.digests)]
        found += _manifests_apart(manifest, read_manifest(other))
    return Verdict(len(contents.digests), contents.size, tuple(sorted(set(found), key=_order)))


def total_bytes(repository: Path) -> int:
    """What there is to read."""
    return sum(path.stat().st_size for _, path in _model_files(repository) if path.is_file())


def read_contents(repository: Path, advance: Advance = lambda _: None) -> Contents:
    """Reads every file of every model, several at once; PublishFailed without a repository."""
    paths = dict(_model_files(repository))
    links = [Difference(name, "link", str(path.readlink())) for name, path in paths.items()
             if path.is_symlink()]  # fmt: skip
    plain = {name: path for name, path in paths.items() if not path.is_symlink()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = dict(zip(plain, pool.map(lambda p: _read(p, advance), plain.values()), strict=True))
    digests = {name: digest for name, (digest, _, _) in read.items() if digest}
    failed = [Difference(name, "unreadable", why) for name, (_, _, why) in read.items() if why]
    size = sum(size for _, size, _ in read.values())
    return Contents(digests, (*links, *failed), size)


def _model_files(repository: Path) -> Iterator[tuple[str, Path]]:
    """Files lying beside the models are nobody's: a server looks at folders only."""
    if not repository.is_dir():
        raise PublishFailed(str(repository), "there is no such folder", "Name a repository.")
    for folder in sorted(repository.iterdir()):
        if folder.is_symlink():
            yield folder.name, folder
        elif folder.is_dir():
            yield from ((f"{folder.name}/{name}", path) for name, path in files_below(folder))
            yield from _dangling(folder)


def _dangling(folder: Path) -> Iterator[tuple[str, Path]]:
    """Links to folders or to nothing, which are no files."""
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.is_file():
            yield path.relative_to(folder.parent).as_posix(), path


def _read(path: Path, advance: Advance) -> tuple[str, int, str]:
    try:
        size = path.stat().st_size
        digest = sha256_of(path)
    except OSError as error:
        return "", 0, error.strerror or str(error)
    advance(size)
    return digest, size, ""


def against_manifest(contents: Contents, manifest: Manifest) -> Iterator[Difference]:
    """What is not as the manifest says."""
    recorded = {
        f"{model}/{name}": digest
        for model, entry in manifest.models.items()
        for name, digest in entry.files.items()
    }
    unrecorded = {model for model, entry in manifest.models.items() if not entry.files}
    yield from (Difference(model, "unrecorded") for model in unrecorded)
    troubled = {trouble.path for trouble in contents.troubles}
    for path in recorded.keys() - contents.digests.keys() - troubled:
        yield Difference(path, "missing")
    for path, digest in contents.digests.items():
        if path not in recorded and path.partition("/")[0] not in unrecorded:
            yield Difference(path, "extra")
        elif path in recorded and recorded[path] != digest:
            yield Difference(path, "changed")


def against_other(ours: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[Difference]:
    """Files that only one of two repositories has, or that are not equal."""
    for path in ours.keys() | theirs.keys():
        if path not in theirs:
            yield Difference(path, "different", "only in the first")
        elif path not in ours:
            yield Difference(path, "different", "only in the second")
        elif ours[path] != theirs[path]:
            yield Difference(path, "different", "other bytes")


def _manifests_apart(ours: Manifest, theirs: Manifest) -> Iterator[Difference]:
    for model in ours.models.keys() | theirs.models.keys():
        if ours.models.get(model) != theirs.models.get(model):
            yield Difference(f"manifest.json: {model}", "different")


def _order(difference: Difference) -> tuple[str, str]:
    return difference.path, difference.kind
