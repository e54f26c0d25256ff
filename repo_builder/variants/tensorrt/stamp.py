"""What an engine is bound to, written beside it, and whether a server can load it.

TensorRT says "Version tag does not match" and no more; the stamp says it before, in words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from repo_builder.variants.tensorrt.machine import Machine
from repo_builder.variants.tensorrt.profiles import Profile
from tritonfleet.spec.export import TensorRTVariant

STAMP_NAME = "stamp.json"
_AMPERE = (8, 0)
# TensorRT in the -trtllm- images, by NVIDIA's TensorRT-LLM compatibility table. The plain -py3
# images have others, which are written nowhere that we could read: ask the image.
TRTLLM_IMAGES = {
    **dict.fromkeys(("24.10",), "10.4.0"),
    **dict.fromkeys(("24.12",), "10.7.0"),
    **dict.fromkeys(("25.01", "25.02"), "10.8.0.43"),
    **dict.fromkeys(("25.03", "25.04", "25.05"), "10.9.0.34"),
    **dict.fromkeys(("25.06", "25.07"), "10.10.0.31"),
    **dict.fromkeys(("25.08", "25.09", "25.10"), "10.11.0.33"),
    **dict.fromkeys(("25.11", "25.12", "26.01", "26.02"), "10.13.3.9"),
    **dict.fromkeys(("26.03", "26.04", "26.05", "26.06", "26.07"), "10.14.1.48"),
}


@dataclass(frozen=True, slots=True)
class Stamp:
    """With what an engine was built, and for what."""

    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str
    platform: str
    precision: str
    profiles: tuple[Profile, ...]
    version_compatible: bool = False
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    workspace_bytes: int | None = None
    optimization_level: int | None = None

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What is known of a server that shall load an engine; None for what is not."""

    tensorrt: str | None = None
    compute_capability: str | None = None
    platform: str | None = None


def stamp(variant: TensorRTVariant, machine: Machine, profiles: tuple[Profile, ...]) -> Stamp:
    """The stamp of an engine built on this machine."""
    assert machine.gpu is not None and machine.tensorrt is not None, "nothing is missing"
    return Stamp(
        tensorrt=machine.tensorrt,
        gpu=machine.gpu.name,
        compute_capability=machine.gpu.compute_capability,
        driver=machine.gpu.driver,
        platform=machine.platform,
        precision=variant.precision,
        profiles=profiles,
        version_compatible=variant.version_compatible,
        hardware_compatibility=variant.hardware_compatibility,
        workspace_bytes=variant.workspace,
        optimization_level=variant.optimization_level,
    )


def write_stamp(folder: Path, stamp: Stamp) -> None:
    """Beside the engine: a server looks at nothing in a version folder that it was not told of."""
    text = json.dumps(stamp.facts(), indent=2, sort_keys=True) + "\n"
    (folder / STAMP_NAME).write_text(text, encoding="utf-8")


def read_stamp(folder: Path) -> Stamp | None:
    """The stamp of an engine in this folder; None where it has none that can be read."""
    try:
        fields = json.loads((folder / STAMP_NAME).read_text(encoding="utf-8"))
        return Stamp(**{**fields, "profiles": tuple(map(_profile, fields["profiles"]))})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _profile(fields: Mapping[str, Any]) -> Profile:
    return {
        name: (tuple(smallest), tuple(best), tuple(largest))
        for name, (smallest, best, largest) in fields.items()
    }


def tensorrt_of_image(tag: str) -> str | None:
    """TensorRT's version in an image, such as '25.11-trtllm-python-py3'; None if unknown."""
    release, _, kind = tag.partition("-")
    return TRTLLM_IMAGES.get(release) if kind.startswith("trtllm") else None


def mismatch(stamp: Stamp, server: ServerFacts) -> str | None:
    """Why a server cannot load an engine; None when nothing that is known speaks against it."""
    if server.platform is not None and server.platform != stamp.platform:
        return f"it was built on {stamp.platform}, the server runs on {server.platform}"
    if server.tensorrt is not None and not _version_fits(stamp, server.tensorrt):
        return f"it was built with TensorRT {stamp.tensorrt}, the server has {server.tensorrt}"
    if server.compute_capability is not None and not _gpu_fits(stamp, server.compute_capability):
        return (
            f"it was built on {stamp.gpu} (compute capability {stamp.compute_capability}), the "
            f"server's GPU has {server.compute_capability}"
        )
    return None


def _version_fits(stamp: Stamp, version: str) -> bool:
    """The same version; a later one where that was asked for. Never an earlier one."""
    built, there = _numbers(stamp.tensorrt), _numbers(version)
    # Tables and packages give a version with three or with four numbers.
    known = min(len(built), len(there))
    same = built[:known] == there[:known]
    return same or (stamp.version_compatible and there > built)


def _gpu_fits(stamp: Stamp, compute_capability: str) -> bool:
    if stamp.hardware_compatibility == "ampere_plus":
        return _numbers(compute_capability) >= _AMPERE
    return compute_capability == stamp.compute_capability


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
