"""ONNX Runtime's own graph optimisations, done once at build instead of at each load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repo_builder import onnx_files
from repo_builder.exporters.base import VariantOrder
from tritonfleet.spec.export import OnnxVariant

_LEVELS = {
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def optimize(order: VariantOrder[OnnxVariant], source: Path, target: Path) -> dict[str, Any]:
    """The graph as ONNX Runtime would rewrite it while loading."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # that the file fits this CPU only is a fact below, no warning
    level = _LEVELS[order.spec.optimize]
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(target)
    if onnx_files.weight_bytes(source) > onnx_files.LARGEST_SINGLE_FILE:
        key = "session.optimized_model_external_initializers_file_name"
        options.add_session_config_entry(key, f"{target.name}.data")
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    facts: dict[str, Any] = {"optimized_by": f"onnxruntime {onnxruntime.__version__}"}
    if order.spec.optimize == "all":
        facts["bound_to"] = "the kind of CPU it was built on"
    return facts
