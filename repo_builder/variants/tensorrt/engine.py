"""Builds an engine: the only module that talks to TensorRT's builder.

Everything used here is named alike in TensorRT 10.16 and 11.4, but for the one flag that only 10
has. Never run by this project's tests on a GPU: docs/tensorrt.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repo_builder.causes import first_line, last_lines
from tritonfleet.errors import VariantFailed
from tritonfleet.server.engines import Profile
from tritonfleet.spec.export import TensorRTVariant

_QUOTED_LINES = 6


def make_log(trt: Any) -> Any:
    """A logger that keeps errors instead of printing them."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the class exists once TensorRT is imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(text)

        def quote(self) -> str:
            return last_lines("\n".join(self.errors), _QUOTED_LINES) or "nothing"

    return Log()


def build_engine(
    trt: Any, model: str, variant: TensorRTVariant, onnx: Path, profiles: Sequence[Profile],
    timing_cache: Path,
) -> bytes:  # fmt: skip
    """The serialized engine; VariantFailed quotes what TensorRT logged."""
    log = make_log(trt)
    try:
        builder = trt.Builder(log)
    # What the bindings make of a null pointer: no driver, or one too old.
    except TypeError as error:
        cause = f"TensorRT cannot use the GPU; it logged: {log.quote()}"
        raise VariantFailed(model, cause, "Check the driver with nvidia-smi.") from error
    network = _parsed(trt, model, builder, log, onnx, _network_flags(trt, variant))
    config = _configured(trt, model, builder, variant, profiles)
    cache = _timing_cache(config, timing_cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        cause = f"TensorRT builds no engine of '{variant.label}'; it logged: {log.quote()}"
        hint = "Less memory than it needs? Lower the max of its profiles, or set 'workspace'."
        raise VariantFailed(model, cause, hint)
    replace_bytes(timing_cache, bytes(cache.serialize()))
    return bytes(engine)


def can_choose_bf16(trt: Any) -> bool:
    """Whether TensorRT itself picks bf16 kernels: 11 takes every precision from the file."""
    return hasattr(trt.BuilderFlag, "BF16")


def replace_bytes(path: Path, content: bytes) -> None:
    """Writes a file that another build may be reading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _network_flags(trt: Any, variant: TensorRTVariant) -> int:
    """Precision as the file has it, but for bf16, which no converter here writes."""
    if variant.precision == "bf16":
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _parsed(trt: Any, model: str, builder: Any, log: Any, onnx: Path, flags: int) -> Any:
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    # By path and not by content: weights may lie beside the file.
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        cause = f"TensorRT does not take its ONNX: {first_line('; '.join(errors)) or log.quote()}"
        hint = "Publish an 'onnx' variant, or export with another 'export.opset'."
        raise VariantFailed(model, cause, hint)
    return network


def _configured(
    trt: Any, model: str, builder: Any, variant: TensorRTVariant, profiles: Sequence[Profile]
) -> Any:
    config = builder.create_builder_config()
    if variant.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, variant.workspace)
    if variant.optimization_level is not None:
        config.builder_optimization_level = variant.optimization_level
    if variant.precision == "bf16":
        config.set_flag(trt.BuilderFlag.BF16)
    if variant.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if variant.hardware_compatibility != "none":
        level = variant.hardware_compatibility.upper()
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    for profile in profiles:
        _add_profile(model, builder, config, profile)
    return config


def _add_profile(model: str, builder: Any, config: Any, profile: Profile) -> None:
    made = builder.create_optimization_profile()
    for name, (smallest, best, largest) in profile.items():
        made.set_shape(name, smallest, best, largest)
    if config.add_optimization_profile(made) < 0:
        cause = f"TensorRT refuses the profile {profile}"
        raise VariantFailed(model, cause, "Its bounds must fit the shapes that the model fixes.")


def _timing_cache(config: Any, path: Path) -> Any:
    """What earlier builds measured on this kind of GPU; an empty one where that is of no use."""
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache
