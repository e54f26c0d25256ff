from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_perf.compare import Ratio, Spread, compare_cold, compare_warm, ratio, spread
from tests.fleet_perf.builders import measurement

TIMES = st.floats(min_value=1e-4, max_value=1e3)


def test_the_ratio_is_the_median_of_the_pairs():
    assert ratio([50, 90, 40], [100, 100, 100]) == Ratio(0.5, 0.4, 0.9)


@given(st.lists(TIMES, min_size=1, max_size=9), st.floats(min_value=0.1, max_value=10))
def test_a_machine_that_slows_down_between_pairs_does_not_move_the_ratio(direct, factor):
    gateway = [factor * seconds for seconds in direct]
    assert ratio(gateway, direct).median == pytest.approx(factor)


def test_sides_of_different_length_are_no_pairs():
    with pytest.raises(ValueError, match="longer"):
        ratio([1.0], [1.0, 2.0])


def test_spread_interpolates():
    assert spread([1.0, 2.0, 3.0]) == Spread(3, 2.0, pytest.approx(2.9))


def test_nothing_has_no_spread():
    assert spread([]) is None


def test_a_warm_cell_has_medians_and_ratios_of_both_sides():
    direct = [measurement(100, 10, 20), measurement(200, 20, 40), measurement(300, 30, 60)]
    gateway = [measurement(50, 20, 30), measurement(100, 40, 60), measurement(150, 60, 90)]
    found = compare_warm("m", 8, 1, direct, gateway)
    assert (found.direct_throughput, found.gateway_throughput) == (200, 100)
    assert (found.direct_p50_us, found.gateway_p50_us) == (20, 40)
    assert found.throughput == Ratio(0.5, 0.5, 0.5)
    assert found.p50.median == 2.0
    assert found.p95.median == 1.5


def test_a_cold_comparison_has_both_percentiles_as_ratios():
    found = compare_cold("m", [1.2] * 5, [1.0] * 5)
    assert found.ratio_p50 == pytest.approx(1.2)
    assert found.ratio_p95 == pytest.approx(1.2)


def test_without_samples_there_is_nothing_to_compare():
    with pytest.raises(ValueError, match="m: nothing to compare"):
        compare_cold("m", [], [1.0])
