"""The job's models as a Triton repository, and fleet files that serve them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleet_perf.peers.job import IDS_PER_ROW, Job, Network
from fleet_perf.peers.network import write_network
from tritonfleet.server.layout import CONFIG_NAME
from tritonfleet.server.pbtxt import ModelConfig, format_config

MAX_BATCH_SIZE = 8
SERVER = "host"
TINY = Network(vocabulary=64, width=16, layers=(16, 4))
"""For models that only show what a model costs beside its weights."""


def write_repository(folder: Path, job: Job) -> None:
    """Every model of the job, as ``<folder>/<name>/1/model.onnx`` with its config.pbtxt."""
    for seed, name in enumerate(job.names):
        _write(folder, name, job.network, seed)
    for seed, name in enumerate(job.tiny_names):
        _write(folder, name, TINY, seed)


def _write(folder: Path, name: str, network: Network, seed: int) -> None:
    write_network(folder / name / "1" / "model.onnx", network, seed)
    config = format_config(_config(name, network))
    (folder / name / CONFIG_NAME).write_text(config, encoding="utf-8")


def _config(name: str, network: Network) -> Any:
    config = ModelConfig(name=name, backend="onnxruntime", max_batch_size=MAX_BATCH_SIZE)
    config.input.add(name="ids", data_type="TYPE_INT64", dims=[-1])
    config.output.add(name="scores", data_type="TYPE_FP32", dims=[network.layers[-1]])
    config.instance_group.add(count=1)
    for option in ("intra_op_thread_count", "inter_op_thread_count"):
        config.parameters[option].string_value = "1"
    return config


def write_fleet(path: Path, names: Sequence[str], capacity: int, footprint: int) -> None:
    """A fleet file with one server and a declared footprint, the same for all."""
    tensors = {
        "inputs": {"ids": {"dtype": "INT64", "shape": ["batch", IDS_PER_ROW]}},
        "outputs": {"scores": {"dtype": "FP32", "shape": ["batch", 1]}},
    }
    model = {"source": {"kind": "python", "path": ".", **tensors}}
    fleet = {
        "name": "peers",
        "servers": [{"name": SERVER, "capacity": capacity, "margin": 0}],
        "defaults": {"residency": {"footprint": footprint}},
        "models": dict.fromkeys(names, model),
    }
    path.write_text(json.dumps(fleet), encoding="utf-8")  # JSON is YAML
