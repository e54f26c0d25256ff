"""TensorRT engines: what they are bound to, and whether a server can load them.

TensorRT says "Version tag does not match" and no more; what is here says it before, in words. An
engine's facts are in a stamp that the builder leaves beside it, and its version is in the engine
itself.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.layout import CONFIG_NAME, model_versions, published_models
from tritonfleet.server.pbtxt import read_config, served_versions
from tritonfleet.server.releases import numbers

STAMP_NAME = "stamp.json"
Profile: TypeAlias = "dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]"
"""By input: the smallest shape, the one it is tuned for, and the largest."""
_AMPERE = (8, 0)
# As trtexec --getPlanVersionOnly reads it: samples/common/sampleEngines.cpp of NVIDIA/TensorRT.
_HEADER = struct.Struct("<4sI16x4B")
_TAG, _LAYOUT = b"ftrt", 0


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
class Engine:
    """An engine that Triton would load."""

    model: str
    version: int
    path: Path
    stamp: Stamp | None
    tensorrt: str | None
    """What made it, by its own first bytes, else by its stamp."""

    def __str__(self) -> str:
        return f"{self.model}, version {self.version}, {self.path.name}"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What is known of a server that shall load an engine; None for what is not."""

    tensorrt: str | None = None
    compute_capability: str | None = None
    platform: str | None = None


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


def plan_version(engine: Path) -> str | None:
    """The TensorRT that made an engine, from its first bytes; None where they do not tell.

    They do from TensorRT 8.6 on.
    """
    try:
        with engine.open("rb") as file:
            tag, layout, *version = _HEADER.unpack(file.read(_HEADER.size))
    except (OSError, struct.error):
        return None
    return ".".join(map(str, version)) if (tag, layout) == (_TAG, _LAYOUT) else None


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


def same_version(first: str, second: str) -> bool:
    """Whether they agree as far as both go: tables give three numbers, packages four."""
    one, other = numbers(first), numbers(second)
    known = min(len(one), len(other))
    return one[:known] == other[:known]


def _version_fits(stamp: Stamp, version: str) -> bool:
    """The same version; a later one where that was asked for. Never an earlier one."""
    later = numbers(version) > numbers(stamp.tensorrt)
    return same_version(stamp.tensorrt, version) or (stamp.version_compatible and later)


def _gpu_fits(stamp: Stamp, compute_capability: str) -> bool:
    if stamp.hardware_compatibility == "ampere_plus":
        return numbers(compute_capability) >= _AMPERE
    return compute_capability == stamp.compute_capability


# -- in a repository -------------------------------------------------------------------------


def find_engines(repository: Path) -> Iterator[Engine]:
    """Every engine that Triton would load, sorted by model."""
    for model in published_models(repository):
        yield from _engines_of(repository, model)


def _engines_of(repository: Path, model: str) -> Iterator[Engine]:
    folder = repository / model
    try:
        # Parsing every configuration would delay the start of a large fleet.
        if not _may_be_engine(folder):
            return
        config = read_config(repository, model)
    except (OSError, UnicodeDecodeError, InvalidModelConfig):
        return  # its load will tell
    if not _is_engine(config, folder):
        return
    for version in served_versions(config, model_versions(folder)):
        path = folder / str(version) / (config.default_model_filename or "model.plan")
        stamp = read_stamp(path.parent)
        made_by = plan_version(path) or (stamp.tensorrt if stamp else None)
        yield Engine(model, version, path, stamp, made_by)


def _may_be_engine(folder: Path) -> bool:
    return b"tensorrt" in (folder / CONFIG_NAME).read_bytes() or _has_plan(folder)


def _has_plan(folder: Path) -> bool:
    return any((folder / str(each) / "model.plan").exists() for each in model_versions(folder))


def _is_engine(config: Any, folder: Path) -> bool:
    if config.backend or config.platform:
        told = config.backend == "tensorrt" or config.platform == "tensorrt_plan"
        # With one engine for each kind of GPU, it is Triton that chooses.
        return told and not config.cc_model_filenames
    return _has_plan(folder)
