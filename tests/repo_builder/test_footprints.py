from __future__ import annotations

import pytest

from repo_builder.footprints import larger
from tritonfleet.server.layout import Footprint


def footprint(peak_bytes=100, **fields):
    return Footprint(
        **{"weights_bytes": 50, "instances": 1, "shared_weights": True, "home": "server",
           "batch_size": 8, **fields, "peak_bytes": peak_bytes}
    )  # fmt: skip


def test_the_larger_peak_of_an_unchanged_model_stays():
    assert larger(footprint(300), footprint(100)) == footprint(300)
    assert larger(footprint(100), footprint(300)) == footprint(300)


def test_weights_are_those_of_the_newer_measurement():
    found = larger(footprint(300, weights_bytes=10), footprint(100))
    assert found is not None and found.weights_bytes == 50


@pytest.mark.parametrize("change", [{"instances": 2}, {"home": "process"}, {"batch_size": 9}])
def test_another_way_of_serving_is_measured_anew(change):
    assert larger(footprint(300), footprint(100, **change)) == footprint(100, **change)


def test_what_was_never_measured_adds_nothing():
    assert larger(None, footprint(1)) == footprint(1)
    assert larger(footprint(1), None) is None
