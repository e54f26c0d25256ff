from __future__ import annotations

import numpy as np
import pytest

from repo_builder.judging.measure import choose, latencies_ms, requests_for
from repo_builder.sources.base import Checkpoint, InputField
from tritonfleet.server.layout import Measurement, VariantRecord
from tritonfleet.spec.export import MeasureSpec


class Clock:
    """Time that passes only while candidates work."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self) -> float:
        return self.now

    def candidate(self, name, seconds_per_row):
        def predict(inputs):
            self.calls.append(name)
            self.now += seconds_per_row * len(inputs["x"])
            return {}

        return predict


def record(name, *, batch_1=1.0, batch_8=4.0, memory=100):
    measured = Measurement(latency_ms={1: batch_1, 8: batch_8}, memory_bytes=memory)
    return VariantRecord(
        name=name, exporter="onnx", backend="onnxruntime", precision="fp32", status="passed",
        measured=measured,
    )  # fmt: skip


def test_medians_are_taken_by_candidate_and_batch_size():
    clock = Clock()
    candidates = {"slow": clock.candidate("slow", 0.004), "fast": clock.candidate("fast", 0.001)}
    requests = {size: {"x": np.zeros((size, 2))} for size in (1, 8)}
    found = latencies_ms(candidates, requests, 0.1, clock)
    assert found == {"slow": {1: 4.0, 8: 32.0}, "fast": {1: 1.0, 8: 8.0}}


def test_candidates_take_turns_and_nobody_always_follows_the_same():
    clock = Clock()
    candidates = {name: clock.candidate(name, 0.001) for name in "abc"}
    latencies_ms(candidates, {1: {"x": np.zeros((1, 2))}}, 0.01, clock)
    timed = clock.calls[6:]  # after two warm-ups each
    rounds = ["".join(timed[i : i + 3]) for i in range(0, len(timed), 3)]
    assert rounds[:4] == ["abc", "bca", "cab", "abc"]
    assert len(rounds) >= 5


def test_requests_have_the_asked_sizes_and_none_is_too_long():
    text = Checkpoint(
        None, {"ids": InputField("INT64", ("batch", "sequence"), "tokens", 9)}, ("y",), longest=16
    )
    found = requests_for(text, MeasureSpec(batch_sizes=(1, 4)))
    assert {size: inputs["ids"].shape for size, inputs in found.items()} == {1: (1, 16), 4: (4, 16)}
    found = requests_for(text, MeasureSpec(batch_sizes=(2,), dimensions={"sequence": 5}))
    assert found[2]["ids"].shape == (2, 5)


def test_a_model_without_a_batch_is_asked_one_request():
    fixed = Checkpoint(None, {"x": InputField("FP32", (3,))}, ("y",))
    assert {size: v["x"].shape for size, v in requests_for(fixed, MeasureSpec()).items()} == {
        1: (3,)
    }


@pytest.mark.parametrize(
    ("objective", "best"),
    [("min_latency", "quick"), ("max_throughput", "broad"), ("min_memory", "lean")],
)
def test_the_best_is_the_one_by_the_objective(objective, best):
    candidates = [
        record("quick", batch_1=0.5, batch_8=8.0),
        record("broad", batch_1=2.0, batch_8=2.0),
        record("lean", memory=10),
    ]
    assert choose(objective, candidates) == best


def test_nothing_measured_is_nothing_chosen():
    unmeasured = record("any").model_copy(update={"measured": None})
    assert choose("min_latency", [unmeasured]) is None
