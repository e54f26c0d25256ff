from __future__ import annotations

import numpy as np
import pytest

from repo_builder.judging.gates import gate_for
from repo_builder.judging.parity import cases, check_parity, check_tokens, token_agreement
from repo_builder.judging.reference import Case, Recorded, Reference
from repo_builder.sources.base import Checkpoint, InputField
from tests.repo_builder.builders import signature
from tritonfleet.errors import ParityFailed
from tritonfleet.spec.export import ParitySpec


def checkpoint(longest: int | None = None, **inputs: InputField) -> Checkpoint:
    return Checkpoint(None, inputs, ("y",), longest=longest)


def test_cases_are_all_batch_sizes_with_all_sizes_of_every_dimension():
    found = list(cases(checkpoint(x=InputField("INT64", ("batch", "sequence"))), ParitySpec()))
    assert len(found) == 6
    assert Case({"batch": 3, "sequence": 33}) in found


def test_no_case_is_longer_than_the_model_takes_nor_tried_twice():
    short = checkpoint(8, x=InputField("INT64", ("batch", "sequence")))
    lengths = [case.sizes["sequence"] for case in cases(short, ParitySpec(batch_sizes=(1,)))]
    assert lengths == [1, 8]


def test_a_dimension_nobody_gave_sizes_for_is_tried_too():
    other = checkpoint(x=InputField("FP32", ("batch", "points")))
    sizes = {case.sizes["points"] for case in cases(other, ParitySpec())}
    assert len(sizes) > 1


def test_a_model_of_fixed_sizes_has_one_case():
    assert [str(c) for c in cases(checkpoint(x=InputField("FP32", (4,))), ParitySpec())] == [
        "fixed sizes"
    ]


def test_masks_are_right_padded_and_never_empty():
    mask = InputField("INT64", ("batch", "sequence"), "mask")
    rows = mask.sample({"batch": 50, "sequence": 9}, np.random.default_rng(0))
    assert rows[0].all() and rows[:, 0].all()
    assert (np.diff(rows, axis=1) <= 0).all()
    assert len({int(row.sum()) for row in rows}) > 3


def test_tokens_stay_in_the_vocabulary_and_floats_have_the_right_type():
    random = np.random.default_rng(0)
    tokens = InputField("INT64", ("batch", 99), "tokens", 7).sample({"batch": 9}, random)
    assert tokens.dtype == np.int64
    assert set(np.unique(tokens)) == set(range(7))
    assert InputField("FP16", ("batch", 2)).sample({"batch": 3}, random).dtype == np.float16


def test_real_examples_are_drawn_where_there_are_some():
    field = InputField("FP32", ("batch", 2), examples=[[1, 2], [3, 4]])
    rows = field.sample({"batch": 20}, np.random.default_rng(0))
    assert rows.shape == (20, 2)
    assert {tuple(row) for row in rows} == {(1.0, 2.0), (3.0, 4.0)}


class Doubling:
    """An artifact that computes 2x, or what ``spoilt`` makes of it."""

    def __init__(self, spoilt=lambda inputs, outputs: outputs):
        self.spoilt = spoilt

    def run(self, inputs):
        return self.spoilt(inputs, {"y": 2 * inputs["x"]})


@pytest.fixture
def reference(tmp_path):
    """What 2x answers to batches of 1 and 3."""
    random = np.random.default_rng(0)
    rows = [random.standard_normal((size, 4)).astype(np.float32) for size in (1, 3)]
    recorded = (Recorded(Case({"batch": len(x)}), {"x": x}, {"y": 2 * x}) for x in rows)
    return Reference.record(tmp_path / "reference", recorded)


BATCHED = signature("x FP32 batch 4", "y FP32 batch 4")
GATE = gate_for(ParitySpec(), "fp32")


def test_an_artifact_that_computes_the_same_passes(reference):
    record = check_parity("m", Doubling(), reference, BATCHED, GATE)
    assert (record.worst, record.cases, record.outputs) == (0.0, 2, {"y": 0.0})


def test_a_wrong_value_fails_with_output_case_and_figure(reference):
    wrong = Doubling(lambda inputs, outputs: {"y": outputs["y"] + 0.01})
    with pytest.raises(
        ParityFailed, match=r"output 'y' differs by 0.0\d+, allowed is 0.0001 at batch=1"
    ):
        check_parity("m", wrong, reference, BATCHED, GATE)


def only_threes(reference):
    return [recorded for recorded in reference if len(recorded.inputs["x"]) == 3]


def test_rows_that_see_each_other_fail(reference):
    def mixed(inputs, outputs):
        return {"y": outputs["y"] + (len(inputs["x"]) == 1) * np.float32(0.5)}

    known = Reference.record(reference.folder, only_threes(reference))
    with pytest.raises(ParityFailed, match="row 0 alone"):
        check_parity("m", Doubling(mixed), known, BATCHED, GATE)


def test_rows_are_not_asked_alone_where_nothing_is_batched(reference):
    def mixed(inputs, outputs):
        assert len(inputs["x"]) == 3
        return outputs

    known = Reference.record(reference.folder, only_threes(reference))
    fixed = signature("x FP32 3 4", "y FP32 3 4")
    assert check_parity("m", Doubling(mixed), known, fixed, GATE).cases == 1


def test_an_artifact_that_breaks_at_a_size_is_told_with_the_size(reference):
    def breaks(inputs, outputs):
        raise RuntimeError("no such size")

    with pytest.raises(ParityFailed, match=r"fails at batch=1: RuntimeError: no such size"):
        check_parity("m", Doubling(breaks), reference, BATCHED, GATE)


def test_what_only_all_cases_can_tell_is_judged_at_the_end(reference):
    def swapped(inputs, outputs):
        return {"y": outputs["y"][:, ::-1].copy()}

    loose = gate_for(ParitySpec(tolerance=10.0, min_argmax_agreement=0.9), "fp32")
    with pytest.raises(ParityFailed, match="argmax agreement over all cases"):
        check_parity("m", Doubling(swapped), reference, BATCHED, loose)


def test_tokens_agree_place_by_place():
    one = np.array([[1, 2, 3, 4]])
    assert token_agreement(one, one) == 1.0
    assert token_agreement(one, np.array([[1, 2, 9, 4]])) == 0.75
    assert token_agreement(one, one[:, :2]) == 0.5
    assert token_agreement(one, one[:, :0]) == 0.0


def test_too_few_tokens_that_agree_fail(reference):
    record = check_parity("m", Doubling(), reference, BATCHED, GATE)
    assert check_tokens("m", record, 0.95, GATE).token_agreement == 0.95
    with pytest.raises(ParityFailed, match=r"only 50.0% of its generated tokens"):
        check_tokens("m", record, 0.5, GATE)
