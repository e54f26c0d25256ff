"""How much memory a model takes: declared, else measured, else estimated from its files.

Measured by this fleet counts before measured when it was built. Measurements survive restarts in
one small file, and belong to the published version they were taken from and to the kind of place it
lived in: a rebuilt model is measured anew, and what a process took says nothing about a model
inside tritonserver.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import math
from pathlib import Path

from tritonfleet.errors import InvalidSpec
from tritonfleet.server.layout import (
    MANIFEST_NAME,
    Footprint,
    Manifest,
    ManifestEntry,
    read_manifest,
    replace_text,
)
from tritonfleet.spec import EnsembleSource, FleetSpec
from tritonfleet.spec.serving import ServingSpec

log = logging.getLogger(__name__)


class Home(enum.Enum):
    """Where a model lives when it is loaded, and so what it takes beside its weights."""

    PROCESS = "process"
    """Each instance in a process of its own, with weights of its own."""
    SERVER = "server"
    """Inside tritonserver, all instances over one set of weights."""


WEIGHTS_FACTOR = {Home.PROCESS: 2.0, Home.SERVER: 1.25}
"""Memory for each byte of artifact, before the first load has shown the truth: ONNX Runtime holds
the initializers and, while it optimises the graph, copies of some of them. Inside tritonserver a
model opens at 1.00 times its file (measured) and says so at once."""
PROCESS_BYTES = 40 * 2**20
"""And for the process that runs it: tiny models of the demo fleet take 28 to 34 MiB (measured)."""
SESSION_BYTES = 2**20
"""And for a session inside tritonserver: what the first request makes its arena take (measured)."""
GROWTH = {Home.PROCESS: 1.1, Home.SERVER: 1.0}
"""Charged for each byte measured. A process is looked at after one small request, and larger
batches need more (a Vision Transformer of the demo fleet grew from 137 to 146 MiB); a model inside
tritonserver tells what it takes, and tells again when that grows."""


class FootprintStore:
    """Measured footprints, kept in ``footprints.json`` of the state directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, int]] = self._read()
        self._unsaved = False

    def get(self, model: str, digest: str, home: Home) -> int | None:
        """The bytes to charge for this version of a model, if it was ever measured there."""
        return self._known.get(model, {}).get(_key(digest, home))

    def record(self, model: str, digest: str, home: Home, footprint: int) -> int:
        """Notes the largest footprint seen for a version; gives the bytes to charge for it."""
        known, key = self._known.get(model, {}), _key(digest, home)
        largest = max(int(GROWTH[home] * footprint), known.get(key, 0))
        if known.get(key) != largest:
            version = {_key(digest, each) for each in Home}
            kept = {other: size for other, size in known.items() if other in version}
            self._known[model] = {**kept, key: largest}
            self._unsaved = True
        return largest

    def unsaved(self) -> str | None:
        """What ``save`` should write; None when the file holds it already."""
        if not self._unsaved:
            return None
        self._unsaved = False
        return json.dumps(self._known, indent=2, sort_keys=True) + "\n"

    def save(self, text: str) -> None:
        """Replaces the file, and waits for the disk: not for an event loop."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self._path, text)
        except OSError as error:
            # A full disk must not stop the fleet; the next start measures again.
            log.warning("cannot keep %s: %s", self._path, error.strerror)

    def _read(self) -> dict[str, dict[str, int]]:
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(m): {str(d): int(b) for d, b in seen.items()} for m, seen in data.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError):
            log.warning("ignoring damaged %s; footprints are measured anew", self._path)
            return {}


def _key(digest: str, home: Home) -> str:
    return f"{home.value}:{digest}"


class PublishedDigests:
    """The digest of each model's published version, read anew only when a build has changed it."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._seen: tuple[int, int] | None = None
        self._manifest = Manifest()

    def of(self, model: str) -> str:
        """The digest; empty for a model that the builder did not publish."""
        seen = self._stamp()
        if seen != self._seen:
            self._seen = seen
            with contextlib.suppress(InvalidSpec):  # damaged by hand; what was known still serves
                self._manifest = read_manifest(self._repository)
        entry = self._manifest.models.get(model)
        return entry.digest if entry else ""

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = (self._repository / MANIFEST_NAME).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino


def known_footprint(
    fleet: FleetSpec, model: str, entry: ManifestEntry | None, store: FootprintStore, home: Home
) -> int:
    """The best figure for a model's memory in bytes before it is loaded."""
    declared = fleet.residency(model).footprint
    if declared is not None:
        return declared
    if isinstance(fleet.models[model].source, EnsembleSource):
        return 0  # an ensemble is a route through its members; it has no process and no weights
    measured = store.get(model, entry.digest if entry else "", home)
    if measured:
        return measured
    instances = _instance_count(fleet.serving(model))
    if entry and entry.footprint and entry.footprint.home == home.value:
        return scaled(entry.footprint, instances, home)
    weights = int(WEIGHTS_FACTOR[home] * entry.artifact_bytes) if entry else 0
    apart = instances * (PROCESS_BYTES + weights)
    return SESSION_BYTES + weights if home is Home.SERVER else apart


def _instance_count(serving: ServingSpec) -> int:
    return sum(group.count * max(len(group.gpus), 1) for group in serving.instance_group)


def scaled(built: Footprint, instances: int, home: Home) -> int:
    """What a model takes with so many instances, from what it took when it was built."""
    growth = built.peak_bytes - built.weights_bytes if built.shared_weights else built.peak_bytes
    size = built.peak_bytes - growth + math.ceil(growth * instances / built.instances)
    # Once its largest batch has been through it, there is nothing left to grow.
    return size if built.batch_size else int(GROWTH[home] * size)
