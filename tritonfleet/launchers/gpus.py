"""The GPUs of this machine, and which of them a server is given."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tritonfleet.server.releases import numbers

_QUERY = (
    "nvidia-smi", "--query-gpu=index,uuid,compute_cap,driver_version", "--format=csv,noheader",
)  # fmt: skip
_PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class HostGpu:
    """A GPU of this machine."""

    index: str
    uuid: str
    compute_capability: str
    driver: str


Gpus: TypeAlias = "tuple[HostGpu, ...]"


def host_gpus(query: Sequence[str] = _QUERY) -> Gpus:
    """The GPUs of this machine; none where nvidia-smi does not answer."""
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S,
            stdin=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(done.stdout)


def parse_gpus(text: str) -> Gpus:
    """The GPUs in nvidia-smi's rows of index, UUID, compute capability and driver."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]
    return tuple(HostGpu(*row) for row in rows if len(row) == 4 and numbers(row[2]))


def chosen_gpus(gpus: Gpus, wanted: Sequence[str] | Literal["all"]) -> Gpus:
    """Those that a server gets; all of them where a name, such as a MIG device's, tells none."""
    if wanted == "all":
        return gpus
    named = {name.partition(":")[0] for name in wanted}
    found = tuple(gpu for gpu in gpus if {gpu.index, gpu.uuid} & named)
    known = {name for gpu in found for name in (gpu.index, gpu.uuid)}
    return found if named <= known else gpus


def compute_capabilities(gpus: Gpus) -> tuple[str, ...]:
    """The kinds that there are."""
    return tuple(sorted({gpu.compute_capability for gpu in gpus}))
