"""What the cache needs to know of a remote place: which version lies there, and a copy of it."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any


class Place(ABC):
    """One address, asked and downloaded. Raises SourceUnavailable, Unreachable when offline."""

    model: str

    @abstractmethod
    def version(self) -> str | None:
        """Equal for equal content, told without reading it; None where nothing tells it."""

    @abstractmethod
    def download(self, folder: Path) -> Path:
        """Puts the file or folder, under its own name, into an empty folder."""


def version_of(facts: Any) -> str:
    """One word for facts that are JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
