"""How much memory a model takes: declared, else measured, else estimated from its files.

Measurements survive restarts in one small file, and belong to the published version they were
taken from: a rebuilt model is estimated and measured anew.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from tritonfleet.server.layout import ManifestEntry, replace_text
from tritonfleet.spec import EnsembleSource, FleetSpec

log = logging.getLogger(__name__)
WEIGHTS_FACTOR = 2.0
"""Memory for each byte of artifact, before the first load has shown the truth: ONNX Runtime holds
the initializers and, while it optimises the graph, copies of some of them."""
PROCESS_BYTES = 40 * 2**20
"""And for the process that runs it: tiny models of the demo fleet take 28 to 34 MiB (measured)."""


GROWTH = 1.1
"""Charged for each byte measured: the first figure is taken after one small request, and larger
batches need more (a Vision Transformer of the demo fleet grew from 137 to 146 MiB)."""


class FootprintStore:
    """Measured footprints, kept in ``footprints.json`` of the state directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, int]] = self._read()

    def get(self, model: str, digest: str) -> int | None:
        """The bytes to charge for this version of a model, if it was ever measured."""
        return self._known.get(model, {}).get(digest)

    def record(self, model: str, digest: str, footprint: int) -> int:
        """Remembers the largest footprint seen for a version; gives the bytes to charge for it."""
        largest = max(int(GROWTH * footprint), self.get(model, digest) or 0)
        if self._known.get(model) != {digest: largest}:
            self._known[model] = {digest: largest}
            self._write()
        return largest

    def _read(self) -> dict[str, dict[str, int]]:
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(m): {str(d): int(b) for d, b in seen.items()} for m, seen in data.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError):
            log.warning("ignoring damaged %s; footprints are measured anew", self._path)
            return {}

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            replace_text(self._path, json.dumps(self._known, indent=2, sort_keys=True) + "\n")
        except OSError as error:
            # A full disk must not stop the fleet; the next start measures again.
            log.warning("cannot keep %s: %s", self._path, error.strerror)


def known_footprint(
    fleet: FleetSpec, model: str, entry: ManifestEntry | None, store: FootprintStore
) -> int:
    """The best figure for a model's memory in bytes before it is loaded."""
    declared = fleet.residency(model).footprint
    if declared is not None:
        return declared
    if isinstance(fleet.models[model].source, EnsembleSource):
        return 0  # an ensemble is a route through its members; it has no process and no weights
    digest = entry.digest if entry else ""
    artifact = entry.artifact_bytes if entry else 0
    instances = sum(group.count for group in fleet.serving(model).instance_group)
    estimate = instances * (PROCESS_BYTES + int(WEIGHTS_FACTOR * artifact))
    return store.get(model, digest) or estimate
