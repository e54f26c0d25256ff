"""Imports what a fleet file names as ``module:function``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def imported(name: str, folder: Path | None) -> Any:
    """The object of that name; modules of ``folder`` come before all others of theirs.

    Raises ImportError or AttributeError, and whatever the module raises when it runs.
    """
    if folder is not None:
        sys.path.insert(0, str(folder))
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
