"""Files and folders behind any fsspec address: S3 and its like, web servers, archives."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from repo_builder.artifacts.address import Address, check_relative
from repo_builder.artifacts.place import Place, version_of
from repo_builder.artifacts.troubles import translated
from tritonfleet.errors import SourceUnavailable

# What a store says of content, best first; the last ones are times, and need the size beside them.
_CHECKSUMS = (
    "ETag", "etag", "md5Hash", "crc32c", "Content-MD5", "Digest", "content_md5", "CRC", "sha256",
    "generation", "VersionId",
)  # fmt: skip
_TIMES = ("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "modified",
          "created")  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Found:
    """What lies at an address: paths of the store by relative name, with what it says of each."""

    system: Any
    name: str
    files: Mapping[str, Mapping[str, Any]]
    """By relative name; '' where the address is a file."""


@dataclass(frozen=True, slots=True)
class RemotePlace(Place):
    """A file or folder that fsspec reaches."""

    model: str
    address: Address

    def version(self) -> str | None:
        """From the checksums or times of all files."""
        marks = {name: _mark(info) for name, info in self._look().files.items()}
        return None if None in marks.values() else version_of(marks)

    def download(self, folder: Path) -> Path:
        """Checks the size of every file: a connection that ends early is not always an error."""
        found = self._look()
        payload = folder / found.name
        targets = {name: payload / name if name else payload for name in found.files}
        for target in targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            found.system.get(
                [info["name"] for info in found.files.values()],
                [str(target) for target in targets.values()],
            )
        except Exception as error:
            raise translated(self.model, self.address, error) from error
        for name, target in targets.items():
            self._check_size(target, found.files[name].get("size"))
        return payload

    def _look(self) -> _Found:
        try:
            found = self._ask()
        except Exception as error:
            raise translated(self.model, self.address, error) from error
        if not found.files:
            raise translated(self.model, self.address, FileNotFoundError())
        for name in found.files:
            check_relative(self.model, name, self.address.shown)
        return found

    def _ask(self) -> _Found:
        system, path = _open(self.address)
        info = system.info(path)
        name = _base_name(self.address, str(info["name"]))
        if info["type"] != "directory":
            return _Found(system, name, {"": info})
        listed = system.find(path, detail=True).values()
        root = str(info["name"]).rstrip("/")
        files = {
            str(entry["name"])[len(root) :].lstrip("/"): entry
            for entry in listed
            if entry["type"] == "file" and not str(entry["name"]).endswith("/")
        }
        return _Found(system, name, files)

    def _check_size(self, target: Path, expected: int | None) -> None:
        if not target.is_file():
            got = "nothing"
        elif expected in (None, target.stat().st_size):
            return
        else:
            got = f"{target.stat().st_size} bytes"
        cause = f"{self.address.shown} came incomplete: {got} of {expected} bytes of {target.name}"
        raise SourceUnavailable(self.model, cause, "Build again.")


def _open(address: Address) -> tuple[Any, str]:
    """The file system of an address with no memory of earlier listings, and the path in it."""
    # A store that nobody answers for should not hold a build up for half a minute.
    os.environ.setdefault("AWS_MAX_ATTEMPTS", "2")
    import fsspec

    # To make one takes botocore a third of a second; but an archive keeps its table of contents.
    system, path = fsspec.core.url_to_fs(address.url, skip_instance_cache=address.is_chain)
    system.invalidate_cache()
    return system, path


def _mark(info: Mapping[str, Any]) -> list[str] | None:
    """What tells one content of a file from another; None where the store does not say."""
    strong = [f"{key} {info[key]}" for key in _CHECKSUMS if info.get(key)]
    if strong:
        return strong[:1]
    times = [f"{key} {info[key]}" for key in _TIMES if info.get(key)]
    return [*times[:1], f"size {info.get('size')}"] if times else None


def _base_name(address: Address, path: str) -> str:
    """The last part of a path, without a web address's query: sources look at the suffix."""
    name = unquote(path.partition("?")[0].rstrip("/").rpartition("/")[2])
    return name if name not in ("", ".", "..") and "/" not in name else address.protocol
