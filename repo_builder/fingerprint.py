"""Whether a model would come out as it did: digests of everything that shapes the result.

A fingerprint has two halves, one for the artifact and one for ``config.pbtxt``, so that a changed
queue delay rewrites a text file and does not train a model again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tritonfleet.server.layout import replace_text

# Raise it when the same inputs begin to give another result.
FORMAT = 2
_PACKAGES = (
    "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "safetensors", "scikit-learn",
    "tokenizers", "torch", "transformers",
)  # fmt: skip
_CHUNK = 1 << 20
# A file this young may change again without its time stamp moving on.
_SETTLED_S = 2.0
# Triton's python backend leaves byte code beside a model.py that it has loaded.
_IGNORED = "__pycache__"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Of one model: equal halves need no work."""

    artifact: str
    config: str

    def __str__(self) -> str:
        return f"{self.artifact}:{self.config}"

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """The halves of a manifest's fingerprint; empty ones match nothing."""
        artifact, _, config = text.partition(":")
        return cls(artifact, config)


def digest_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 of facts that are JSON."""
    text = json.dumps({"format": FORMAT, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def package_versions() -> dict[str, str]:
    """The installed versions of what loads, exports and checks models."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@dataclass(slots=True)
class DigestCache:
    """SHA-256 of files and folders; a file whose size and time did not change is not read again."""

    file: Path
    _known: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    _changed: bool = False

    @classmethod
    def load(cls, file: Path) -> DigestCache:
        """The digests of earlier builds; none when the file is absent or damaged."""
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
            known = {path: (int(size), int(at), str(sha)) for path, (size, at, sha) in raw.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            known = {}
        return cls(file, known)

    def save(self) -> None:
        """Keeps what was learned, less the files that are gone."""
        if not self._changed:
            return
        kept = {path: entry for path, entry in self._known.items() if Path(path).exists()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.file, json.dumps(kept, indent=0, sort_keys=True) + "\n")
        self._changed = False

    def __call__(self, path: Path) -> str:
        """The digest of a file's bytes, or of a folder's names and bytes."""
        if path.is_file():
            return self._of_file(path)
        lines = [f"{self._of_file(file)} {name}" for name, file in files_below(path)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _of_file(self, path: Path) -> str:
        stat, key = path.stat(), str(path.absolute())
        known = self._known.get(key)
        if known and known[:2] == (stat.st_size, stat.st_mtime_ns):
            return known[2]
        found = sha256_of(path)
        if time.time() - stat.st_mtime > _SETTLED_S:
            self._known[key] = (stat.st_size, stat.st_mtime_ns, found)
            self._changed = True
        return found


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below a folder with its name from there, in order, less Python's byte code."""
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_file() and _IGNORED not in name.parts:
            yield name.as_posix(), file


def sha256_of(path: Path) -> str:
    """Of a file's bytes, all of them read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
