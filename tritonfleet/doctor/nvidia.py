"""GPUs and MIG devices, as ``nvidia-smi`` tells them. Runs nothing.

``nvidia-smi -q -x`` knows memory, modes and errors; MIG devices have neither UUID nor profile
there, but in ``nvidia-smi -L``.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, replace

_MIB = 2**20
_GPU = re.compile(r"^GPU (\d+): ")
_MIG = re.compile(r"^\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)")
_SIZE = re.compile(r"^(\d+) MiB$")
_UNCORRECTABLE = ("sram_uncorrectable_parity", "sram_uncorrectable_secded", "dram_uncorrectable",
                  "sram_uncorrectable", "double_bit/total")  # fmt: skip
"""Of the volatile counters; their names changed with the drivers."""


@dataclass(frozen=True, slots=True)
class MigDevice:
    """A slice of a GPU."""

    index: int
    total_bytes: int | None
    free_bytes: int | None
    profile: str | None = None
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine; None is what it does not tell."""

    index: int
    uuid: str
    name: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    persistence: bool | None = None
    compute_mode: str = "Default"
    ecc: bool | None = None
    uncorrectable_errors: int = 0
    """Since the driver was loaded."""
    repair_pending: bool = False
    """Rows or pages that are taken out of use at the next reset."""
    mig: bool | None = None
    mig_pending: bool | None = None
    mig_devices: tuple[MigDevice, ...] = ()
    compute_capability: str | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """What the driver told."""

    driver: str
    gpus: tuple[Gpu, ...]


def parse_log(text: str) -> Log:
    """The answer of ``nvidia-smi -q -x``; ValueError where it is none."""
    # A document type names a file beside it, which nobody needs; ElementTree reads none.
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"nvidia-smi -q -x answers no XML: {error}") from error
    if root.tag != "nvidia_smi_log":
        raise ValueError(f"nvidia-smi -q -x answers <{root.tag}>")
    gpus = tuple(_gpu(index, node) for index, node in enumerate(root.findall("gpu")))
    return Log(_text(root, "driver_version"), gpus)


def _gpu(index: int, node: ElementTree.Element) -> Gpu:
    return Gpu(
        index=index,
        uuid=_text(node, "uuid"),
        name=_text(node, "product_name"),
        total_bytes=_size(node, "fb_memory_usage/total"),
        free_bytes=_size(node, "fb_memory_usage/free"),
        persistence=_switch(node, "persistence_mode"),
        compute_mode=_text(node, "compute_mode") or "Default",
        ecc=_switch(node, "ecc_mode/current_ecc"),
        uncorrectable_errors=_uncorrectable(node),
        repair_pending=_repair_pending(node),
        mig=_switch(node, "mig_mode/current_mig"),
        mig_pending=_switch(node, "mig_mode/pending_mig"),
        mig_devices=tuple(_mig_device(part) for part in node.findall("mig_devices/mig_device")),
    )


def _mig_device(node: ElementTree.Element) -> MigDevice:
    return MigDevice(
        int(_text(node, "index")),
        _size(node, "fb_memory_usage/total"),
        _size(node, "fb_memory_usage/free"),
    )


def _text(node: ElementTree.Element, path: str) -> str:
    return (node.findtext(path) or "").strip()


def _size(node: ElementTree.Element, path: str) -> int | None:
    size = _SIZE.match(_text(node, path))
    return int(size[1]) * _MIB if size else None


def _switch(node: ElementTree.Element, path: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(_text(node, path))


def _uncorrectable(node: ElementTree.Element) -> int:
    told = (_text(node, f"ecc_errors/volatile/{name}") for name in _UNCORRECTABLE)
    return sum(int(count) for count in told if count.isdigit())


def _repair_pending(node: ElementTree.Element) -> bool:
    paths = ("remapped_rows/remapped_row_pending", "retired_pages/pending_retirement")
    return any(_text(node, path) == "Yes" for path in paths)


def with_names(gpus: tuple[Gpu, ...], listing: str) -> tuple[Gpu, ...]:
    """The GPUs, with profiles and UUIDs of their MIG devices from ``nvidia-smi -L``."""
    names = _names(listing)
    return tuple(_with_names(gpu, names) for gpu in gpus)


def _with_names(gpu: Gpu, names: Mapping[tuple[int, int], tuple[str, str]]) -> Gpu:
    devices = tuple(_named(gpu.index, device, names) for device in gpu.mig_devices)
    return replace(gpu, mig_devices=devices)


def _names(listing: str) -> dict[tuple[int, int], tuple[str, str]]:
    names: dict[tuple[int, int], tuple[str, str]] = {}
    gpu = -1
    for line in listing.splitlines():
        if whole := _GPU.match(line):
            gpu = int(whole[1])
        elif part := _MIG.match(line):
            names[gpu, int(part[2])] = part[1], part[3]
    return names


def _named(
    gpu: int, device: MigDevice, names: Mapping[tuple[int, int], tuple[str, str]]
) -> MigDevice:
    profile, uuid = names.get((gpu, device.index), (device.profile, device.uuid))
    return replace(device, profile=profile, uuid=uuid)


def with_capabilities(gpus: tuple[Gpu, ...], csv: str) -> tuple[Gpu, ...]:
    """The GPUs, with what ``--query-gpu=index,compute_cap --format=csv,noheader`` tells.

    Older drivers do not know the field.
    """
    rows = (line.split(",") for line in csv.splitlines() if line.count(",") == 1)
    told = {index.strip(): capability.strip() for index, capability in rows}
    return tuple(replace(gpu, compute_capability=told.get(str(gpu.index))) for gpu in gpus)


@dataclass(frozen=True, slots=True)
class Device:
    """What a server may be given: a GPU or a slice of one."""

    name: str
    total_bytes: int | None
    free_bytes: int | None


def find_device(gpus: tuple[Gpu, ...], wanted: str) -> Device | None:
    """The device of an index, ``GPU:MIG`` indexes or a UUID; None if there is none."""
    for gpu in gpus:
        if wanted in (str(gpu.index), gpu.uuid):
            return Device(f"GPU {gpu.index}, {gpu.name}", gpu.total_bytes, gpu.free_bytes)
        for part in gpu.mig_devices:
            if wanted in (f"{gpu.index}:{part.index}", part.uuid):
                name = f"MIG {part.profile or 'device'} {gpu.index}:{part.index}"
                return Device(name, part.total_bytes, part.free_bytes)
    return None
