"""Serving options that leave nothing out, for tests of what becomes of each."""

from __future__ import annotations

from typing import Any

import numpy

from repo_builder.config.render import DataFile, RenderedConfig, render_config
from repo_builder.product import Product, Step
from tests.repo_builder.builders import product, serving

RAGGED: Product = product(
    "ids INT64 batch sequence, pixels FP32 batch 4 4 3, words BYTES batch 1, rows FP32 total, "
    "places FP32 places, bound INT32 batch 2",
    "scores FP32 batch 3, joined FP32 total, flat FP32 batch 4",
)
DATA = {
    "ids.npy": DataFile("ids.npy", numpy.arange(5).tobytes(), "INT64", (5,)),
    "memory.bin": DataFile("memory.bin", bytes(16)),
}
ACCELERATOR = {"name": "openvino", "parameters": {"threads": 2, "fast": True}}
POLICY = {
    "timeout_action": "DELAY",
    "default_timeout_microseconds": 9,
    "allow_timeout_override": True,
    "max_queue_size": 11,
}
SHAPE = {"ids": {"dim": [16]}}
EVERYTHING: dict[str, Any] = {
    "max_batch_size": 16,
    "input": {
        "ids": {"dims": [5], "optional": True},
        "pixels": {"format": "nhwc", "is_non_linear_format_io": True},
        "rows": {"allow_ragged_batch": True},
        "bound": {"dims": [1, 2], "reshape": [2], "is_shape_tensor": True},
    },
    "output": {
        "flat": {"dims": [2, 2], "reshape": [4], "is_shape_tensor": True},
        "joined": {"is_non_linear_format_io": True},
    },
    "batch_input": [
        {
            "kind": "accumulated_element_count",
            "target_name": ["places"],
            "data_type": "FP32",
            "source_input": ["rows"],
        }
    ],
    "batch_output": [{"target_name": ["joined"], "source_input": ["rows"]}],
    "instance_group": [
        {
            "name": "fast",
            "count": 2,
            "kind": "gpu",
            "gpus": [0, 1],
            "profile": ["0", "1"],
            "host_policy": "numa_0",
            "secondary_devices": [{"kind": "nvdla", "device_id": 1}],
            "rate_limiter": {
                "resources": [{"name": "heavy", "count": 2, "global": True}],
                "priority": 3,
            },
        },
        {"kind": "model", "passive": True},
    ],
    "dynamic_batching": {
        "preferred_batch_size": [4, 16],
        "max_queue_delay_microseconds": 700,
        "preserve_ordering": True,
        "priority_levels": 2,
        "default_priority_level": 2,
        "default_queue_policy": POLICY,
        "priority_queue_policy": {1: POLICY},
    },
    "optimization": {
        "graph": {"level": 1},
        "priority": "max",
        "cuda": {
            "graphs": True,
            "busy_wait_events": True,
            "output_copy_stream": True,
            "graph_spec": [
                {
                    "batch_size": 4,
                    "input": SHAPE,
                    "graph_lower_bound": {"batch_size": 2, "input": SHAPE},
                }
            ],
        },
        "execution_accelerators": {
            "gpu_execution_accelerator": [ACCELERATOR],
            "cpu_execution_accelerator": [ACCELERATOR],
        },
        "input_pinned_memory": {"enable": True},
        "output_pinned_memory": {"enable": True},
        "gather_kernel_buffer_threshold": 3,
        "eager_batching": True,
    },
    "warmup": [
        {"batch_size": 2, "count": 3, "data": "random"},
        {"name": "real", "files": {"ids": "ids.npy"}},
    ],
    "version_policy": {"latest": 2},
    "response_cache": {"enable": True},
    "parameters": {"intra_op_thread_count": 1, "fast": True, "ratio": 0.5, "note": 'a "b"'},
    "metric_tags": {"team": "search"},
    "default_model_filename": "model.onnx",
    "cc_model_filenames": {"9.0": "model_90.plan"},
    "model_operations": {"op_library_filename": ["/opt/ops.so"]},
    "model_repository_agents": {"agents": [{"name": "checksum", "parameters": {"a": "b"}}]},
    "model_metrics": {
        "metric_control": [
            {
                "metric_identifier": {"family": "nv_inference_first_response_histogram_ms"},
                "histogram_options": {"buckets": [0.1, 1, 10]},
            }
        ]
    },
    "runtime": "model.py",
}
STATEFUL: Product = product(
    "x FP32 batch 4, start FP32 batch 1, ready INT32 batch 1, end BOOL batch 1, "
    "who UINT64 batch 1, memory_in FP32 batch 4",
    "y FP32 batch 3, memory_out FP32 batch 4",
)
SEQUENCES: dict[str, Any] = {
    "max_batch_size": 8,
    "sequence_batching": {
        "oldest": {
            "max_candidate_sequences": 32,
            "preferred_batch_size": [4],
            "max_queue_delay_microseconds": 100,
            "preserve_ordering": True,
        },
        "max_sequence_idle_microseconds": 5_000_000,
        "control_input": [
            {"name": "start", "control": [{"kind": "start"}]},
            {"name": "ready", "control": [{"kind": "ready"}]},
            {"name": "end", "control": [{"kind": "end"}]},
            {"name": "who", "control": [{"kind": "corrid"}]},
        ],
        "state": [
            {
                "input_name": "memory_in",
                "output_name": "memory_out",
                "initial_state": [
                    {"name": "first", "dims": [4], "data_file": "memory.bin"},
                    {"name": "none", "dims": [4]},
                ],
                "use_same_buffer_for_input_output": True,
                "use_growable_memory": True,
            }
        ],
        "iterative_sequence": True,
    },
    "model_transaction_policy": {"decoupled": True},
    "version_policy": {"specific": [1, 3]},
}
DIRECT: dict[str, Any] = {
    "sequence_batching": {
        "direct": {"max_queue_delay_microseconds": 5, "minimum_slot_utilization": 0.5},
        "control_input": SEQUENCES["sequence_batching"]["control_input"],
    },
    "version_policy": {"all": True},
    "output": {"memory_out": {}},
}
PIPELINE: Product = product(
    backend="",
    steps=(Step("first", {"x": "x"}, {"h": "h"}), Step("second", {"z": "h"}, {"y": "y"})),
)


def configurations() -> dict[str, RenderedConfig]:
    """Models that together use everything that is typed."""
    labels = {"scores": ("a", "b", "c")}
    stateless = product(
        "x FP32 batch 4, start FP32 batch 1, ready INT32 batch 1, end BOOL batch 1, "
        "who UINT64 batch 1",
        "y FP32 batch 3, memory_out FP32 batch 4",
    )
    return {
        "everything": render_config("everything", RAGGED, serving(**EVERYTHING), labels, DATA),
        "sequences": render_config("sequences", STATEFUL, serving(**SEQUENCES), {}, DATA),
        "direct": render_config("direct", stateless, serving(**DIRECT)),
        "pipeline": render_config("pipeline", PIPELINE, serving()),
    }
