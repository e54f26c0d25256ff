"""What the original answers to a set of requests, kept so that every candidate meets the same.

Recorded once, by the process that holds the original; read by whoever checks a candidate, be it
ONNX Runtime in a process of its own or a whole tritonserver. A case is two files: its inputs and
the original's outputs, as ``.npz``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"
Tensors: TypeAlias = "dict[str, Array]"
_INDEX = "cases.json"


@dataclass(frozen=True, slots=True)
class Case:
    """Sizes of the named dimensions."""

    sizes: Mapping[str, int]

    def __str__(self) -> str:
        return ", ".join(f"{name}={size}" for name, size in self.sizes.items()) or "fixed sizes"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One case with what went in and what the original gave."""

    case: Case
    inputs: Tensors
    outputs: Tensors


class Reference:
    """A folder of recorded cases."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def record(cls, folder: Path, recorded: Iterable[Recorded]) -> Reference:
        """Writes cases one at a time, so that only one is ever in memory."""
        folder.mkdir(parents=True, exist_ok=True)
        sizes = []
        for index, each in enumerate(recorded):
            np.savez(folder / f"{index}.inputs.npz", **each.inputs)
            np.savez(folder / f"{index}.outputs.npz", **each.outputs)
            sizes.append(dict(each.case.sizes))
        (folder / _INDEX).write_text(json.dumps(sizes), encoding="utf-8")
        return cls(folder)

    def __len__(self) -> int:
        return len(self._sizes())

    def __iter__(self) -> Iterator[Recorded]:
        for index, sizes in enumerate(self._sizes()):
            yield Recorded(Case(sizes), self._read(index, "inputs"), self._read(index, "outputs"))

    def _sizes(self) -> list[dict[str, int]]:
        found: list[dict[str, int]] = json.loads((self.folder / _INDEX).read_text(encoding="utf-8"))
        return found

    def _read(self, index: int, side: str) -> Tensors:
        with np.load(self.folder / f"{index}.{side}.npz", allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
