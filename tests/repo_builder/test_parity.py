from __future__ import annotations

import numpy as np
import pytest

from repo_builder.parity import Case, Difference, cases, difference
from repo_builder.sources.base import Checkpoint, InputField
from tritonfleet.spec.fleet import ParitySpec


def checkpoint(longest: int | None = None, **inputs: InputField) -> Checkpoint:
    return Checkpoint(None, inputs, ("y",), longest=longest)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_the_difference_is_in_proportion_to_the_largest_value():
    assert difference(floats(100, 0), floats(101, 0)) == pytest.approx(0.01)


def test_a_zero_beside_large_values_does_not_cry_wolf():
    assert difference(floats(1000, 0), floats(1000, 1e-4)) == pytest.approx(1e-7)


def test_equal_zeros_are_equal_and_unequal_to_zero_is_infinitely_off():
    assert difference(floats(0, 0), floats(0, 0)) == 0
    assert difference(floats(0, 0), floats(0, 1)) == float("inf")


def test_infinities_and_nans_in_the_same_places_are_equal():
    values = floats(1, -np.inf, np.nan)
    assert difference(values, values.copy()) == 0


@pytest.mark.parametrize(
    "other", [floats(1, np.inf), floats(1, np.nan), floats(np.inf, -np.inf), floats(1, 5)]
)
def test_infinities_elsewhere_or_of_another_sign_are_a_difference(other):
    with pytest.raises(Difference, match="other places"):
        difference(floats(1, -np.inf), other)


def test_shape_and_type_must_agree():
    with pytest.raises(Difference, match=r"shape \[1\] instead of \[2\]"):
        difference(floats(1, 2), floats(1))
    with pytest.raises(Difference, match="float64 instead of float32"):
        difference(floats(1), floats(1).astype(np.float64))


def test_integers_and_booleans_are_compared_as_numbers():
    assert difference(np.array([2, 250], np.uint8), np.array([2, 250], np.uint8)) == 0
    assert difference(np.array([0, 4], np.uint8), np.array([4, 4], np.uint8)) == 1.0
    assert difference(np.array([True]), np.array([False])) == 1.0


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
