"""Which backend a configuration means, and which file that backend opens.

Follows what Triton's core does when it completes a configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENSEMBLE = "ensemble"
ARTIFACT_NAMES: Mapping[str, str] = {
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "pytorch": "model.pt",
    "python": "model.py",
    "openvino": "model.xml",
    "tensorflow": "model.savedmodel",
    "dali": "model.dali",
    "vllm": "model.json",
}
"""What each backend opens in the version's folder, unless told otherwise."""
PLATFORMS: Mapping[str, str] = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "torch_aoti": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
    ENSEMBLE: ENSEMBLE,
}
"""The backend of each platform that Triton knows."""
COMPLETING = frozenset({"onnxruntime", "tensorrt", "tensorflow", "openvino", "dali", "vllm"})
"""Backends that can tell inputs and outputs themselves, where the server lets them."""
_BY_PLATFORM = {"tensorflow_graphdef": "model.graphdef", "torch_aoti": "model.pt2"}
_BACKENDS = {name: backend for backend, name in ARTIFACT_NAMES.items() if backend != "vllm"}


def backend_of(config: Any, version: Path | None) -> str:
    """The backend of a model; empty when neither configuration nor files tell."""
    if config.HasField("ensemble_scheduling") or config.platform == ENSEMBLE:
        return ENSEMBLE
    if config.backend:
        return str(config.backend)
    if config.platform:
        return PLATFORMS.get(config.platform, "")
    names = {config.default_model_filename} if config.default_model_filename else _names(version)
    return next((backend for name, backend in _BACKENDS.items() if name in names), "")


def artifact_name(config: Any, backend: str) -> str:
    """The file, or folder, that the backend opens; empty when only the backend knows."""
    if config.default_model_filename:
        return str(config.default_model_filename)
    return _BY_PLATFORM.get(config.platform) or ARTIFACT_NAMES.get(backend, "")


def _names(folder: Path | None) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()} if folder else set()
    except OSError:
        return set()
