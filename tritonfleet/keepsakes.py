"""What the brain remembers beyond its own end: measured footprints and pins."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tritonfleet.controller.footprint import (
    FootprintStore,
    Home,
    PublishedDigests,
    known_footprint,
)
from tritonfleet.server.layout import ManifestEntry, replace_text
from tritonfleet.spec import FleetSpec, PythonSource, TokenizerSource

SAVE_S = 1.0
"""Measured footprints are written so much later, all that came meanwhile at once."""


class Footprints:
    """What models take, as declared, measured earlier, or measured now."""

    def __init__(self, spec: FleetSpec, repository: Path, file: Path, *, told: bool) -> None:
        """``told``: whether all servers' ONNX models tell what they take inside the server."""
        self._spec, self._told = spec, told
        self._store = FootprintStore(file)
        self._digests = PublishedDigests(repository)
        self._saving: asyncio.Task[None] | None = None

    def known(self, model: str, entry: ManifestEntry | None) -> int:
        """What to reserve for a model that is about to be loaded."""
        return known_footprint(self._spec, model, entry, self._store, self._home(model))

    def record(self, model: str, home: Home, footprint: int) -> int:
        """Notes a measurement, and gives the figure to charge."""
        declared = self._spec.residency(model).footprint
        if declared is not None:
            return max(footprint, declared)
        charge = self._store.record(model, self._digests.of(model), home, footprint)
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save_soon())
        return charge

    async def save(self) -> None:
        """Writes what has not been written yet."""
        if self._saving is not None:
            self._saving.cancel()
        await self._save()

    async def _save_soon(self) -> None:
        await asyncio.sleep(SAVE_S)
        await self._save()

    async def _save(self) -> None:
        text = self._store.unsaved()
        if text is not None:
            await asyncio.to_thread(self._store.save, text)

    def _home(self, model: str) -> Home:
        """Where a model will live, as far as that can be told before it is loaded."""
        if isinstance(self._spec.models[model].source, PythonSource | TokenizerSource):
            return Home.PROCESS
        # A server that we did not start says of itself where its models are; see the controller.
        return Home.SERVER if self._told else Home.PROCESS


class Pins:
    """The models that somebody pinned while the fleet ran, beside those that its file pins."""

    def __init__(self, spec: FleetSpec, file: Path) -> None:
        self._file, self._names = file, frozenset(spec.models)
        self.declared = tuple(name for name in spec.models if spec.residency(name).pinned)

    def load(self) -> list[str]:
        """All pinned models that the fleet still has."""
        return [*self.declared, *self._saved()]

    def save(self, pinned: frozenset[str]) -> None:
        """Replaces what is remembered."""
        replace_text(self._file, json.dumps(sorted(pinned - set(self.declared))) + "\n")

    def _saved(self) -> list[str]:
        try:
            saved = json.loads(self._file.read_text(encoding="utf-8"))
            return [name for name in saved if name in self._names]
        except (OSError, ValueError, TypeError):
            return []
