"""Requests share runs when they can, and failures are never shared."""

from __future__ import annotations

import numpy
import pytest

from tritonfleet.launchers.backends.onnxruntime.batching import (
    RequestFailed,
    Work,
    answer,
    readable,
)


class Doubler:
    """y = 2 x and n = -x, refusing what is negative; remembers every run."""

    def __init__(self) -> None:
        self.runs = []

    def __call__(self, outputs, inputs):
        x = inputs["x"]
        self.runs.append((tuple(outputs), x.shape))
        if (x < 0).any():
            raise ValueError("x must not be negative")
        return [{"y": 2 * x, "n": -x}[name] for name in outputs]


def work(*rows, outputs=("y",)):
    return Work({"x": numpy.array(rows)}, outputs)


def values(outcomes):
    return [
        outcome.message
        if isinstance(outcome, RequestFailed)
        else {name: array.tolist() for name, array in outcome.items()}
        for outcome in outcomes
    ]


def test_requests_of_one_shape_share_one_run():
    run = Doubler()
    outcomes = answer([work([1], [2]), work([3]), work([4])], run, batched=True)
    assert values(outcomes) == [{"y": [[2], [4]]}, {"y": [[6]]}, {"y": [[8]]}]
    assert run.runs == [(("y",), (4, 1))]


def test_each_shape_has_its_own_run_and_answers_keep_their_order():
    run = Doubler()
    outcomes = answer([work([1]), work([2, 2]), work([3])], run, batched=True)
    assert values(outcomes) == [{"y": [[2]]}, {"y": [[4, 4]]}, {"y": [[6]]}]
    assert run.runs == [(("y",), (2, 1)), (("y",), (1, 2))]


def test_types_are_never_mixed_in_one_run():
    run = Doubler()
    floats = Work({"x": numpy.array([[1.5]])}, ("y",))
    outcomes = answer([work([1]), floats], run, batched=True)
    assert [outcome["y"].dtype.kind for outcome in outcomes] == ["i", "f"]


def test_a_model_without_batches_runs_once_for_each_request():
    run = Doubler()
    answer([work(1), work(2)], run, batched=False)
    assert run.runs == [(("y",), (1,)), (("y",), (1,))]


def test_only_wanted_outputs_are_computed_and_each_request_gets_its_own():
    run = Doubler()
    outcomes = answer([work([1]), work([2], outputs=("n", "y"))], run, batched=True)
    assert values(outcomes) == [{"y": [[2]]}, {"n": [[-2]], "y": [[4]]}]
    answer([work([1], outputs=("n",))], run, batched=True)
    assert [outputs for outputs, _ in run.runs] == [("y", "n"), ("n",)]


def test_only_the_guilty_request_of_a_batch_fails():
    outcomes = answer([work([1]), work([-1]), work([3])], Doubler(), batched=True)
    assert values(outcomes) == [{"y": [[2]]}, "x must not be negative", {"y": [[6]]}]
    assert outcomes[1].invalid


def test_a_request_that_failed_before_stays_failed_and_disturbs_nobody():
    broken = RequestFailed("no text", invalid=True)
    outcomes = answer([work([1]), broken, work([3])], Doubler(), batched=True)
    assert values(outcomes) == [{"y": [[2]]}, "no text", {"y": [[6]]}]


def test_an_output_without_batch_dimension_is_computed_for_each_request_alone():
    def total(outputs, inputs):
        return [inputs["x"].sum(keepdims=True)[0]]

    outcomes = answer([work([1], [2]), work([3])], total, batched=True)
    assert values(outcomes) == [{"y": [3]}, {"y": [3]}]


def test_inputs_that_not_every_request_brings_keep_requests_apart():
    seen = []

    def run(outputs, inputs):
        seen.append(sorted(inputs))
        return [inputs["x"]]

    both = Work({"x": numpy.array([[1]]), "bias": numpy.array([[1]])}, ("y",))
    answer([work([1]), both], run, batched=True)
    assert seen == [["x"], ["bias", "x"]]


class InvalidArgument(Exception):
    """Named as ONNX Runtime's."""


@pytest.mark.parametrize(
    ("error", "invalid"), [(InvalidArgument("x"), True), (RuntimeError("x"), False)]
)
def test_whose_fault_it_is_decides_the_code(error, invalid):
    def run(outputs, inputs):
        raise error

    (outcome,) = answer([work([1])], run, batched=True)
    assert outcome.invalid is invalid


def test_messages_are_bounded():
    assert readable(RuntimeError("x" * 2000)) == "x" * 2000
    long = readable(RuntimeError("x" * 100_000))
    assert len(long) == 2000
    assert long.endswith("xxx ...")


@pytest.mark.parametrize(
    ("raw", "clear"),
    [
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while "
            "running Gather node. Name:'' Status Message: indices element out of data bounds",
            "Non-zero status code returned while running Gather node. Name:'' Status Message: "
            "indices element out of data bounds",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Status Message: /onnxruntime_src/core/reshape.h:91 "
            "onnxruntime::Helper::Helper(const onnxruntime::TensorShape&, bool) "
            "cannot be reshaped.\n",
            "Status Message: cannot be reshaped.",
        ),
        (
            "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from /m/1/model.onnx "
            "failed:Protobuf parsing failed.",
            "Protobuf parsing failed.",
        ),
        ("", "InvalidArgument"),
    ],
)
def test_messages_lose_source_paths_and_codes(raw, clear):
    assert readable(InvalidArgument(raw)) == clear
