"""What Triton would say of a model, told from its config.pbtxt when the model is not loaded.

The shapes of these answers are those of the Open Inference Protocol and of Triton's model
configuration and statistics extensions.
"""

from __future__ import annotations

from typing import Any

from tritonfleet.server.pbtxt import config_json, datatype, protocol_shape

_EXTENSIONS = (
    "classification", "sequence", "model_repository", "model_repository(unload_dependents)",
    "schedule_policy", "model_configuration", "binary_tensor_data", "parameters", "statistics",
    "trace", "logging",
)  # fmt: skip
_SHARING = ("system_shared_memory", "cuda_shared_memory")


def server_metadata(version: str, *, shares: bool) -> dict[str, Any]:
    """The server metadata response; ``shares``: whether shared memory may be registered."""
    extensions = [*_EXTENSIONS, *(_SHARING if shares else ())]
    return {"name": "tritonfleet", "version": version, "extensions": extensions}


def model_metadata(config: Any, versions: tuple[int, ...]) -> dict[str, Any]:
    """The model metadata response of the Open Inference Protocol."""
    return {
        "name": config.name,
        "versions": [str(version) for version in versions],
        "platform": config.platform or _platform(config),
        "inputs": [_tensor(config, tensor) for tensor in config.input],
        "outputs": [_tensor(config, tensor) for tensor in config.output],
    }


def model_config(config: Any) -> dict[str, Any]:
    """The response of Triton's model configuration extension."""
    return config_json(config)


def no_statistics(config: Any, versions: tuple[int, ...]) -> dict[str, Any]:
    """The statistics of a model that is not loaded: it has done nothing since it was."""
    nothing = {"count": 0, "ns": 0}
    phases = (
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output",
        "cache_hit", "cache_miss",
    )  # fmt: skip
    return {
        "model_stats": [
            {
                "name": config.name,
                "version": str(version),
                "last_inference": 0,
                "inference_count": 0,
                "execution_count": 0,
                "inference_stats": dict.fromkeys(phases, nothing),
                "response_stats": {},
                "batch_stats": [],
                "memory_usage": [],
            }
            for version in versions
        ]
    }


def _tensor(config: Any, tensor: Any) -> dict[str, Any]:
    shape = protocol_shape(config, tensor)
    return {"name": tensor.name, "datatype": datatype(tensor.data_type), "shape": shape}


def _platform(config: Any) -> str:
    # What Triton fills in itself: onnxruntime_onnx for the onnxruntime backend, else the backend.
    return "onnxruntime_onnx" if config.backend == "onnxruntime" else str(config.backend)
