"""The manifest of a repository that was built here, against what lies beside it.

A glance: presence of files, and digests of the small ones. All digests are ``tritonfleet
verify``'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from repo_builder.lint.findings import Expected, Finding, Rule
from repo_builder.lint.repository import Repository
from tritonfleet.errors import InvalidSpec
from tritonfleet.server.layout import MANIFEST_NAME, Manifest, ManifestEntry, read_manifest

MANIFEST = Rule("manifest", "error", "a manifest that is none")
DRIFT = Rule("manifest-drift", "warning", "files that are not what was built")

_SMALL_BYTES = 1 << 20
_FIX = "'tritonfleet verify' lists all; 'tritonfleet build' makes the model anew."


def check_repository(repository: Repository, expected: Expected) -> Iterator[tuple[str, Finding]]:
    """Everything about manifest.json, where there is one."""
    try:
        manifest = read_manifest(repository.path)
    except (InvalidSpec, OSError, ValueError) as error:
        fix = "Delete it, and run 'tritonfleet build'."
        yield "", MANIFEST.found(str(error).strip(), fix, MANIFEST_NAME)
        manifest = Manifest()
    for model, entry in manifest.models.items():
        for message in _drift(repository, model, entry):
            yield model, DRIFT.found(message, _FIX, MANIFEST_NAME)


def _drift(repository: Repository, model: str, entry: ManifestEntry) -> Iterator[str]:
    subjects = repository.models.get(model)
    if subjects is None:
        yield "the manifest has the model, the repository has not"
        return
    if entry.version not in subjects[0].versions:
        yield f"the manifest has version {entry.version}, the repository has not"
    folder = repository.path / model
    for name, digest in sorted(entry.files.items()):
        path = folder / name
        try:
            small = path.stat().st_size <= _SMALL_BYTES
            if small and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                yield f"'{name}' was changed since it was built"
        except OSError as error:
            yield f"'{name}' of the manifest: {error.strerror}"
