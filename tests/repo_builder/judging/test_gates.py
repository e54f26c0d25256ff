from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from repo_builder.judging.gates import (
    Difference,
    Tally,
    cosine_similarity,
    difference,
    gate_for,
    same_argmax,
    same_top_k,
)
from tritonfleet.spec.export import ParitySpec


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


FLOATS = arrays(np.float32, (3, 4), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False))


@given(FLOATS)
def test_anything_has_the_direction_of_itself_and_of_its_multiples(values):
    assert cosine_similarity(values, values) == pytest.approx(1.0)
    assert cosine_similarity(values, 2 * values) == pytest.approx(1.0)


def test_the_cosine_is_that_of_the_worst_row():
    one, other = floats(1, 0, 1, 0).reshape(2, 2), floats(1, 0, 0, 1).reshape(2, 2)
    assert cosine_similarity(one, other) == pytest.approx(0.0)


def test_a_row_that_becomes_silent_has_no_direction():
    assert cosine_similarity(floats(1, 1), floats(0, 0)) == 0.0
    assert cosine_similarity(floats(0, 0), floats(0, 0)) == 1.0


def test_images_are_compared_as_a_whole():
    image = np.ones((1, 1, 2, 2), np.float32)
    spoilt = image.copy()
    spoilt[0, 0, 0] = [1, -1]  # a row of its own would have a cosine of 0
    assert cosine_similarity(image, spoilt) == pytest.approx(0.5)


def test_scores_agree_where_their_largest_stand():
    one = floats(1, 2, 3, 3, 2, 1).reshape(2, 3)
    assert same_argmax(one, one) == (2, 2)
    assert same_argmax(one, one[:, ::-1]) == (0, 2)
    assert same_top_k(one, one[:, ::-1], 2) == (1.0, 2)
    assert same_top_k(one, one[:, ::-1], 9) == (2.0, 2)


@pytest.mark.parametrize(
    ("precision", "tolerance", "cosine"),
    [("fp32", 1e-4, None), ("fp16", 1e-2, None), ("bf16", 3e-2, None), ("int8", None, 0.98)],
)
def test_each_precision_has_a_measure_of_its_own(precision, tolerance, cosine):
    gate = gate_for(ParitySpec(), precision)
    assert (gate.tolerance, gate.min_cosine_similarity) == (tolerance, cosine)


def test_what_the_fleet_file_says_takes_the_place_of_it():
    gate = gate_for(ParitySpec(tolerance=0.5), "int8")
    assert (gate.tolerance, gate.min_cosine_similarity) == (0.5, None)
    gate = gate_for(ParitySpec(min_cosine_similarity=0.9), "fp32")
    assert (gate.tolerance, gate.min_cosine_similarity) == (None, 0.9)


def test_int8_is_judged_by_direction_and_scalars_by_their_distance():
    tally = Tally(gate_for(ParitySpec(), "int8"))
    tally.judge("y", "a case", floats(1, 2, 3), floats(1.05, 2, 3))
    assert tally.cosine is not None and tally.cosine > 0.99
    with pytest.raises(Difference, match=r"cosine similarity 0.6\d+, asked is 0.98"):
        tally.judge("y", "a case", floats(1, 2, 3), floats(3, 2, -1) + 2)
    one = np.array([[1.0], [2.0]], np.float32)
    with pytest.raises(Difference, match=r"differs by 0.25, allowed is 0.1"):
        tally.judge("y", "a case", one, one + np.float32(0.5))


def test_numbers_that_are_no_floats_must_be_equal_or_nearly_all_of_them():
    ids = np.arange(100)
    one_off = np.where(ids == 7, -1, ids)
    Tally(gate_for(ParitySpec(), "int8")).judge("ids", "a case", ids, one_off)
    with pytest.raises(Difference, match=r"99.0% of its elements"):
        Tally(gate_for(ParitySpec(), "fp32")).judge("ids", "a case", ids, one_off)


def test_the_worst_is_remembered_with_its_place_and_by_output():
    tally = Tally(gate_for(ParitySpec(tolerance=1.0), "fp32"))
    tally.judge("a", "first", floats(1, 1), floats(1, 1.1))
    tally.judge("b", "second", floats(1, 1), floats(1, 1.3))
    assert tally.worst_case == "b at second"
    assert tally.by_output == {"a": pytest.approx(0.1), "b": pytest.approx(0.3)}
