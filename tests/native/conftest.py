from __future__ import annotations

import pytest
from onnx import TensorProto

from tests.launchers.backends.onnxruntime.test_sequences import (
    CONTROL_CONFIG,
    CONTROLS,
    STATE_CONFIG,
    numbers,
    sequence,
)
from tests.launchers.onnx_models import (
    accumulator,
    biased,
    controlled,
    doubler,
    expander,
    identity,
    io,
    lookup,
    publish,
    tensors,
    twice_weighted,
    two_outputs,
    weighted_doubler,
)
from tests.native.host import build

# A server waits for open sequences before it ends.
IDLE_S = 0.5
BATCHING = "dynamic_batching { max_queue_delay_microseconds: 500 }"


@pytest.fixture(scope="session")
def sanitized(pytestconfig):
    """Builds with a sanitizer, each once."""
    builds = {}

    def make(name):
        if name not in builds:
            builds[name] = build(pytestconfig.cache.mkdir(f"native-{name}"), name)
        return builds[name]

    return make


@pytest.fixture
def repository(tmp_path):
    """One model for each thing that the backend can do; some double, as the host expects."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name, model, config in models():
        publish(folder, name, model, config)
    shared = folder / "double_shared" / "config.pbtxt"
    shared.write_text(shared.read_text().replace("count: 1", "count: 3"))
    return folder


@pytest.fixture
def doublers(repository):
    """Only the models whose answers the host knows: a storm over few models is a dense one."""
    for path in repository.iterdir():
        if not path.name.startswith("double"):
            for file in sorted(path.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            path.rmdir()
    return repository


def models():
    yield "double", doubler(), f"max_batch_size: 8 {io()}"
    yield "double_batched", doubler(), f"max_batch_size: 8 {io()} {BATCHING}"
    yield "double_shared", weighted_doubler(64), f"max_batch_size: 8 {io()} {BATCHING}"
    yield "double_weighted", weighted_doubler(256), f"max_batch_size: 8 {io()}"
    yield "text", identity(TensorProto.STRING), f"max_batch_size: 32 {io('STRING')} {BATCHING}"
    yield "half", identity(TensorProto.FLOAT16), f"max_batch_size: 8 {io('FP16')} {BATCHING}"
    yield "brain", identity(TensorProto.BFLOAT16), f"max_batch_size: 8 {io('BF16')}"
    yield "lookup", lookup(), f"max_batch_size: 8 {_lookup_io()} {BATCHING}"
    yield "expander", expander(), _expander_io()
    yield "both", two_outputs(), f"max_batch_size: 8 {_both_io()} {BATCHING}"
    yield "optional", biased(), f"max_batch_size: 8 {_optional_io()} {BATCHING}"
    yield "twice", twice_weighted(1), f"max_batch_size: 8 {_twice_io()}"
    told = f"max_batch_size: 4 {numbers(5)} {sequence(CONTROL_CONFIG, idle_s=IDLE_S)}"
    yield "told", controlled(CONTROLS), told
    yield (
        "sum",
        accumulator(),
        f"max_batch_size: 4 {numbers(1)} {sequence(STATE_CONFIG, idle_s=IDLE_S)}",
    )


def _lookup_io() -> str:
    return tensors("input", i=("INT64", [-1])) + tensors("output", y=("FP32", [-1, 2]))


def _expander_io() -> str:
    inputs = tensors("input", x=("FP32", [1]), shape=("INT64", [-1]))
    return inputs + tensors("output", y=("FP32", [-1, -1]))


def _both_io() -> str:
    row = ("FP32", [2])
    return tensors("input", a=row, b=row) + tensors("output", plus=row, minus=row)


def _optional_io() -> str:
    bias = 'input { name: "bias" data_type: TYPE_FP32 dims: [2] optional: true }'
    return tensors("input", x=("FP32", [2])) + bias + tensors("output", y=("FP32", [2]))


def _twice_io() -> str:
    row = ("FP32", [2**20 // 4 // 64])
    return tensors("input", x=("FP32", [64])) + tensors("output", y=row, z=row)
