"""Shapes of optimisation profiles, from signatures and declared ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.signature import Signature, Tensor
from repo_builder.variants.tensorrt.profiles import fitting_profile, optimization_profiles
from tests.repo_builder.builders import signature
from tritonfleet.errors import VariantFailed
from tritonfleet.spec.export import DimensionRange

TEXT = signature("ids INT64 batch sequence, mask INT64 batch sequence", "y FP32 batch 3")
IMAGE = signature("x FP32 batch 3 32 32", "y FP32 batch 10")
DETECTOR = signature("x FP32 batch 3 height width", "y FP32 batch 10")


def profiles(of, *declared, max_batch_size=8, longest=None):
    ranges = [
        {name: DimensionRange(min=a, opt=b, max=c) for name, (a, b, c) in each.items()}
        for each in declared
    ]
    return optimization_profiles("m", of, ranges, max_batch_size, longest)


def with_input(*shape: int | str) -> Signature:
    return Signature((Tensor("x", "FP32", shape),), (Tensor("y", "FP32", (shape[0], 2)),))


def test_batches_reach_to_max_batch_size_and_are_tuned_for_it():
    assert profiles(IMAGE) == ({"x": ((1, 3, 32, 32), (8, 3, 32, 32), (8, 3, 32, 32))},)


def test_sequences_reach_to_the_longest():
    (found,) = profiles(TEXT, longest=512)
    assert found["ids"] == found["mask"] == ((1, 1), (8, 64), (8, 512))


def test_a_model_for_short_sequences_is_tuned_for_its_longest():
    assert profiles(TEXT, longest=20)[0]["ids"] == ((1, 1), (8, 20), (8, 20))


def test_a_declared_range_wins_and_the_rest_is_derived():
    (found,) = profiles(TEXT, {"sequence": (16, 32, 128)}, longest=512)
    assert found["ids"] == ((1, 16), (8, 32), (8, 128))


def test_each_declared_profile_is_one():
    short, long = profiles(
        TEXT, {"sequence": (1, 32, 64)}, {"sequence": (64, 128, 256), "batch": (1, 1, 2)}
    )
    assert short["ids"][2] == (8, 64) and long["ids"] == ((1, 64), (1, 128), (2, 256))


def test_fixed_shapes_need_nothing():
    assert profiles(signature("x FP32 1 4", "y FP32 1 2"), max_batch_size=0) == (
        {"x": ((1, 4), (1, 4), (1, 4))},
    )


@pytest.mark.parametrize(
    ("size", "bounds"),
    [
        ("past + sequence", (2, 80, 160)),
        ("2*sequence", (2, 128, 256)),
        ("(sequence - 1)//2 + 1", (1, 32, 64)),
    ],
)
def test_computed_dimensions_follow_what_they_are_computed_of(size, bounds):
    both = Signature(
        (Tensor("x", "FP32", ("batch", "sequence", "past")), Tensor("m", "INT64", ("batch", size))),
        (Tensor("y", "FP32", ("batch",)),),
    )
    (found,) = profiles(both, {"past": (1, 16, 32)}, longest=128)
    assert tuple(shape[1] for shape in found["m"]) == bounds


def test_a_computed_dimension_may_be_declared_itself():
    (found,) = profiles(with_input("batch", "n % 7"), {"n % 7": (1, 2, 3)})
    assert found["x"] == ((1, 1), (8, 2), (8, 3))


@pytest.mark.parametrize("name", ["height", "n % 7", "a - b", "text_batch"])
def test_what_is_not_known_must_be_declared(name):
    with pytest.raises(VariantFailed, match=r"gets is not known.*profiles: \[\{"):
        profiles(with_input("batch", name), longest=None)


def test_another_batch_is_no_sequence():
    joint = signature("ids INT64 text_batch sequence, px FP32 image_batch 3", "y FP32 text_batch 4")
    with pytest.raises(VariantFailed, match="how large 'text_batch' of input 'ids'"):
        profiles(joint, longest=77, max_batch_size=0)


def test_a_dimension_without_a_name_is_refused():
    with pytest.raises(VariantFailed, match="input 'x' has a dynamic dimension without a name"):
        profiles(with_input("batch", "?"), longest=77)


def test_a_misspelt_dimension_is_named_with_what_was_meant():
    with pytest.raises(VariantFailed, match=r"dimension 'sequense'.*Did you mean 'sequence'"):
        profiles(TEXT, {"sequense": (1, 2, 3)}, longest=77)


def test_profiles_that_end_below_max_batch_size_are_refused():
    with pytest.raises(VariantFailed, match="end at batches of 4, and max_batch_size is 8"):
        profiles(IMAGE, {"batch": (1, 2, 4)})


def test_one_profile_may_be_for_small_batches_if_another_is_for_the_largest():
    assert len(profiles(IMAGE, {"batch": (1, 1, 1)}, {"batch": (2, 8, 8)})) == 2


ranges = st.tuples(*[st.integers(1, 40)] * 3).map(lambda sizes: tuple(sorted(sizes)))


@given(st.integers(1, 64), ranges, ranges, st.integers(0, 40), st.integers(0, 40))
def test_whatever_lies_within_the_declared_ranges_fits(max_batch, height, width, more, less):
    declared = {"height": height, "width": width}
    found = profiles(DETECTOR, declared, max_batch_size=max_batch)
    low, best, high = found[0]["x"]
    assert all(a <= b <= c for a, b, c in zip(low, best, high, strict=True))
    assert fitting_profile(found, {"x": best}) == 0
    outside = (1, 3, height[2] + more + 1, width[0])
    assert fitting_profile(found, {"x": outside}) is None
    inside = min(height[0] + less, height[2])
    assert fitting_profile(found, {"x": (1, 3, inside, width[1])}) == 0


def test_the_first_profile_that_fits_is_taken():
    found = profiles(TEXT, {"sequence": (1, 32, 64)}, {"sequence": (32, 128, 256)})
    assert fitting_profile(found, {"ids": (8, 40), "mask": (8, 40)}) == 0
    assert fitting_profile(found, {"ids": (8, 65), "mask": (8, 65)}) == 1
    assert fitting_profile(found, {"ids": (8,), "mask": (8, 65)}) is None
