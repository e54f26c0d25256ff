"""Execution accelerators of the ONNX Runtime backend, which refuses what it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from repo_builder.lint.findings import Expected, Finding, Rule
from repo_builder.lint.repository import Subject
from tritonfleet.errors import did_you_mean

ACCELERATOR = Rule("accelerator", "error", "an execution accelerator that the backend lacks")
ACCELERATOR_OPTION = Rule("accelerator-option", "error", "an option that the accelerator refuses")
SLOW_FIRST_REQUEST = Rule(
    "engine-not-kept", "warning", "TensorRT engines that are built again at every start"
)

_NAMES = {"gpu": ("tensorrt", "cuda"), "cpu": ("openvino",)}
_PRECISIONS = ("FP32", "FP16", "BF16", "INT8")
_TENSORRT_OPTIONS = frozenset(
    {
        "precision_mode", "max_workspace_size_bytes", "int8_calibration_table_name",
        "int8_use_native_calibration_table", "trt_max_partition_iterations",
        "trt_min_subgraph_size", "trt_dla_enable", "trt_dla_core", "trt_engine_cache_enable",
        "trt_engine_cache_path", "trt_engine_cache_prefix", "trt_dump_subgraphs",
        "trt_force_sequential_engine_build", "trt_context_memory_sharing_enable",
        "trt_layer_norm_fp32_fallback", "trt_timing_cache_enable", "trt_timing_cache_path",
        "trt_force_timing_cache", "trt_detailed_build_log", "trt_build_heuristics_enable",
        "trt_sparsity_enable", "trt_builder_optimization_level", "trt_auxiliary_streams",
        "trt_tactic_sources", "trt_extra_plugin_lib_paths", "trt_profile_min_shapes",
        "trt_profile_max_shapes", "trt_profile_opt_shapes", "trt_cuda_graph_enable",
        "trt_dump_ep_context_model", "trt_ep_context_file_path", "trt_ep_context_embed_mode",
    }
)  # fmt: skip


def check(subject: Subject, expected: Expected) -> Iterator[Finding]:
    """Everything about optimization.execution_accelerators."""
    if subject.backend != "onnxruntime":
        return
    accelerators = subject.config.optimization.execution_accelerators
    for kind, names in _NAMES.items():
        field = f"{kind}_execution_accelerator"
        for accelerator in getattr(accelerators, field):
            place = f"optimization.execution_accelerators.{field} '{accelerator.name}'"
            if accelerator.name not in names:
                message = f"the onnxruntime backend has no {kind} accelerator '{accelerator.name}'"
                yield ACCELERATOR.found(message, f"There is: {', '.join(names)}.", place)
            elif accelerator.name == "tensorrt":
                yield from _tensorrt(accelerator.parameters, place)


def _tensorrt(parameters: Any, place: str) -> Iterator[Finding]:
    for name in sorted(set(parameters) - _TENSORRT_OPTIONS):
        guess = did_you_mean(name, _TENSORRT_OPTIONS)
        fix = f"Did you mean '{guess}'?" if guess else "Drop it."
        yield ACCELERATOR_OPTION.found(f"it takes no '{name}'", fix, place)
    precision = parameters.get("precision_mode", "FP32")
    if precision not in _PRECISIONS:
        fix = f"Write one of {', '.join(_PRECISIONS)}."
        yield ACCELERATOR_OPTION.found(f"precision_mode '{precision}' is none", fix, place)
    keeps = parameters.get("trt_engine_cache_enable", "").lower() in ("1", "true")
    if not keeps or not parameters.get("trt_engine_cache_path"):
        message = "the first requests after every load wait for engines to be built"
        fix = "Set trt_engine_cache_enable: 1 and a trt_engine_cache_path, and warm the model up."
        yield SLOW_FIRST_REQUEST.found(message, fix, place)
