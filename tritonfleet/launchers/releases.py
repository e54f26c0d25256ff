"""Whether an image can serve the repository: asked before a container is made of it.

Refused is what cannot work: an engine of another TensorRT, for another GPU, or in an image without
TensorRT. What only may go wrong is a warning.
"""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tritonfleet.errors import EngineMismatch
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.engine.facts import address_of
from tritonfleet.launchers.gpus import Gpus, chosen_gpus, compute_capabilities, host_gpus
from tritonfleet.server.engines import (
    Engine,
    ServerFacts,
    Stamp,
    find_engines,
    mismatch,
    same_version,
)
from tritonfleet.server.layout import model_versions, published_models
from tritonfleet.server.onnx_header import read_onnx_header
from tritonfleet.server.releases import (
    RELEASES,
    check_driver,
    numbers,
    onnx_runtime,
    read_image_name,
)

log = logging.getLogger(__name__)
_OURS = "io.tritonfleet."
_CPU_IMAGE = "tritonserver-cpu"
_ALL_BACKENDS = ("py3", "py3-igpu")
"""Kinds of NVIDIA's images that serve engines; others hold Python and one backend for LLMs."""
_LISTED = 3


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of an image; None for what is not."""

    image: str
    release: str | None = None
    triton: str | None = None
    tensorrt: str | None = None
    onnxruntime: str | None = None
    serves_engines: Literal["yes", "no", "hardly", "unknown"] = "unknown"
    """'hardly': an image for LLMs, which by what is known of them has no backend for engines."""
    version_compatible: bool = False
    """Whether the repository has engines that load only where Triton is given
    ``--backend-config=tensorrt,version-compatible=true``."""


def check_image(
    options: LaunchOptions,
    image: str,
    config: Mapping[str, Any],
    gpus: Callable[[], Gpus] | None = None,
) -> ImageFacts:
    """What an image is, once nothing speaks against serving the repository with it.

    ``config`` is what the container engine tells of the image under Config. Reads the repository:
    not for the event loop. Raises EngineMismatch with every engine that cannot be served.
    """
    facts = image_facts(image, config)
    seen = (gpus or host_gpus)() if _uses_gpus_here(options) else ()
    chosen = chosen_gpus(seen, options.container.gpus)
    engines = tuple(find_engines(options.repository))
    warnings = _check(options.repository, engines, facts, chosen)
    for warning in (*_driver_warnings(facts, chosen), *warnings):
        log.warning("image=%s: %s", image, warning)
    asked = any(engine.stamp is not None and engine.stamp.version_compatible for engine in engines)
    return replace(facts, version_compatible=asked)


def check_repository(repository: Path, facts: ImageFacts, gpus: Gpus = ()) -> tuple[str, ...]:
    """What may go wrong with an image, model by model.

    Raises EngineMismatch with every engine of the repository that cannot be served.
    """
    return _check(repository, tuple(find_engines(repository)), facts, gpus)


def _check(
    repository: Path, engines: tuple[Engine, ...], facts: ImageFacts, gpus: Gpus
) -> tuple[str, ...]:
    misfits = tuple(
        f"{engine}: {why}" for engine in engines if (why := misfit(engine, facts, gpus))
    )
    if misfits:
        raise EngineMismatch(facts.image, misfits, _next_step(facts, engines, gpus))
    return (*_engine_warnings(engines, facts, gpus), *_onnx_warnings(repository, facts))


# -- the image ---------------------------------------------------------------------------------


def image_facts(image: str, config: Mapping[str, Any]) -> ImageFacts:
    """What our labels say of an image, then NVIDIA's, then its environment, then its name."""
    labels: Mapping[str, str] = config.get("Labels") or {}
    environment = dict(_pair(entry) for entry in config.get("Env") or ())
    name = read_image_name(image)
    release = _first(
        labels.get(f"{_OURS}triton.release"),
        environment.get("NVIDIA_TRITON_SERVER_VERSION"),
        name.release if name else None,
    )
    row = RELEASES.get(release or "")
    serves = _serves_engines(labels, environment, name.kind if name else None)
    ours = f"{_OURS}image" in labels
    return ImageFacts(
        image=image,
        release=release,
        triton=_first(
            labels.get(f"{_OURS}triton.version"),
            labels.get("com.nvidia.tritonserver.version"),
            environment.get("TRITON_SERVER_VERSION"),
            row.triton if row else None,
        ),
        tensorrt=_tensorrt(labels, environment, row.tensorrt if row else None, serves),
        onnxruntime=_first(
            labels.get(f"{_OURS}onnxruntime.version"),
            row.onnxruntime if row and not ours else None,
        ),
        serves_engines=serves,
    )


def _serves_engines(
    labels: Mapping[str, str], environment: Mapping[str, str], kind: str | None
) -> Literal["yes", "no", "hardly", "unknown"]:
    if labels.get(f"{_OURS}image") == _CPU_IMAGE:
        return "no"
    if f"{_OURS}tensorrt.version" in labels:
        return "yes"
    if kind is not None and kind not in _ALL_BACKENDS:
        return "hardly"
    return "yes" if kind is not None or "TRT_VERSION" in environment else "unknown"


def _tensorrt(
    labels: Mapping[str, str], environment: Mapping[str, str], told: str | None, serves: str
) -> str | None:
    if serves in ("no", "hardly"):
        return None  # what those have is TensorRT-LLM's, or nobody's
    return _first(labels.get(f"{_OURS}tensorrt.version"), environment.get("TRT_VERSION"), told)


def _pair(entry: str) -> tuple[str, str]:
    name, _, value = entry.partition("=")
    return name, value


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value), None)


# -- judging -----------------------------------------------------------------------------------


def misfit(engine: Engine, facts: ImageFacts, gpus: Gpus = ()) -> str | None:
    """Why an image cannot serve an engine on any of these GPUs; None where it may."""
    if facts.serves_engines == "no":
        return "the image has no TensorRT"
    if engine.stamp is None:
        return _unstamped_misfit(engine.tensorrt, facts.tensorrt)
    stamp = replace(engine.stamp, tensorrt=engine.tensorrt or engine.stamp.tensorrt)
    reasons = [
        mismatch(stamp, ServerFacts(facts.tensorrt, capability, _platform() if gpus else None))
        for capability in compute_capabilities(gpus) or (None,)
    ]
    return reasons[0] if all(reasons) else None


def _unstamped_misfit(made_by: str | None, tensorrt: str | None) -> str | None:
    """Without a stamp an earlier engine might be made for later versions, but no later one."""
    if made_by is None or tensorrt is None or same_version(made_by, tensorrt):
        return None
    if numbers(made_by) < numbers(tensorrt):
        return None
    return f"it was built with TensorRT {made_by}, the server has {tensorrt}"


def _engine_warnings(engines: Iterable[Engine], facts: ImageFacts, gpus: Gpus) -> Iterator[str]:
    for engine in engines:
        if facts.serves_engines == "hardly":
            yield f"{engine}: images of this kind hold no backend for it, as far as is known"
        elif doubt := _doubt(engine, facts):
            yield f"{engine}: {doubt}"
        if engine.stamp is not None and len(compute_capabilities(gpus)) > 1:
            yield from _partly(engine, engine.stamp, facts, gpus)


def _doubt(engine: Engine, facts: ImageFacts) -> str | None:
    """What cannot be known of an engine that nothing speaks against."""
    if engine.tensorrt is None:
        return "nothing tells which TensorRT made it; if it does not load, build it again"
    if facts.tensorrt is None:
        return f"it was built with TensorRT {engine.tensorrt}; what the image has is not known"
    if engine.stamp is None and not same_version(engine.tensorrt, facts.tensorrt):
        return (
            f"it was built with TensorRT {engine.tensorrt}, the image has {facts.tensorrt}, which "
            "loads it only if it was built to be version compatible"
        )
    return None


def _partly(engine: Engine, stamp: Stamp, facts: ImageFacts, gpus: Gpus) -> Iterator[str]:
    for capability in compute_capabilities(gpus):
        reason = mismatch(stamp, ServerFacts(None, capability))
        if reason:
            yield f"{engine}: not on all of the server's GPUs: {reason}"


def _onnx_warnings(repository: Path, facts: ImageFacts) -> Iterator[str]:
    limits = onnx_runtime(facts.onnxruntime) if facts.onnxruntime else None
    if limits is None:
        return
    for model, version, path in _onnx_files(repository):
        header = read_onnx_header(path)
        if header is None:
            continue
        for what, has, most in (
            ("opset", header.opset, limits.opset),
            ("IR version", header.ir_version, limits.ir_version),
        ):
            if has > most:
                yield (
                    f"{model}, version {version}, {path.name}: its {what} {has} is newer than "
                    f"ONNX Runtime {facts.onnxruntime} of the image reads: {most}; export it "
                    "with that, or choose a later release"
                )


def _onnx_files(repository: Path) -> Iterator[tuple[str, int, Path]]:
    for model in published_models(repository):
        for version in model_versions(repository / model)[-1:]:
            yield model, version, repository / model / str(version) / "model.onnx"


def _next_step(facts: ImageFacts, engines: Sequence[Engine], gpus: Gpus) -> str:
    if facts.serves_engines == "no":
        return "Serve them with NVIDIA's image, or take them out of the repository."
    bad = [engine for engine in engines if misfit(engine, facts, gpus)]
    if not any(misfit(engine, facts) for engine in bad):
        return (
            "Build them on that kind of GPU, or with hardware_compatibility: ampere_plus, or give "
            "the server the GPUs they were built for."
        )
    steps = [f"Build them again with TensorRT {facts.tensorrt}, best in this very image"]
    if releases := _suiting(bad):
        steps.append(f"choose release {releases}, which has theirs")
    if any(numbers(e.tensorrt or "") < numbers(facts.tensorrt or "") for e in bad):
        steps.append("build them with version_compatible: true, for later versions")
    return f"{', or '.join(steps)}."


def _suiting(engines: Sequence[Engine]) -> str:
    """The releases known to have the TensorRT of all these engines."""
    found = [
        name
        for name, row in RELEASES.items()
        if row.tensorrt
        and all(e.tensorrt and same_version(e.tensorrt, row.tensorrt) for e in engines)
    ]
    return " or ".join(found[-_LISTED:])


# -- GPUs ---------------------------------------------------------------------------------------


def _uses_gpus_here(options: LaunchOptions) -> bool:
    """Whether it is this machine's GPUs that the server gets: an engine may be elsewhere."""
    here = address_of(options.container.engine).startswith("unix:")
    return here and bool(options.container.gpus)


def _driver_warnings(facts: ImageFacts, gpus: Gpus) -> Iterator[str]:
    for driver in sorted({gpu.driver for gpu in gpus}):
        if facts.release is not None:
            check = check_driver(driver, facts.release)
            if check.level in ("warning", "error"):
                yield check.message


def _platform() -> str:
    return f"{sys.platform}-{platform.machine()}"
