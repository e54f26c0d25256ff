from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.exporters.base import VariantOrder
from repo_builder.variants.calibration import CalibrationData, chosen
from tests.repo_builder.builders import signature
from tests.repo_builder.variants.graphs import tokens
from tritonfleet.errors import VariantFailed
from tritonfleet.spec.export import OnnxVariant

BATCHED = signature("tokens INT64 batch sequence", "y FP32 batch 3")
SINGLE = signature("tokens INT64 4 sequence", "y FP32 3")


def order(tmp_path, calibration, wanted, what=BATCHED):
    spec = OnnxVariant(format="onnx", quantize="static", calibration_samples=wanted)
    return VariantOrder("m", spec, tmp_path, what, tmp_path, tmp_path, calibration)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=9), st.integers(1, 30))
def test_no_more_requests_are_taken_than_give_the_rows_asked_for(tmp_path_factory, rows, wanted):
    requests = [tokens(count) for count in rows]
    taken = chosen(order(tmp_path_factory.getbasetemp(), requests, wanted))
    assert list(taken) == requests[: len(taken)]
    assert sum(rows[: len(taken) - 1]) < wanted
    assert len(taken) == len(rows) or sum(rows[: len(taken)]) >= wanted


def test_requests_count_as_one_each_where_the_model_does_not_batch(tmp_path):
    requests = [tokens(4), tokens(4), tokens(4)]
    assert len(chosen(order(tmp_path, requests, 2, SINGLE))) == 2


def test_no_requests_are_an_error(tmp_path):
    with pytest.raises(VariantFailed, match=r"export\.examples"):
        chosen(order(tmp_path, (), 4))


def test_requests_are_read_one_after_the_other_and_by_ranges():
    data = CalibrationData([tokens(seed=seed) for seed in range(4)])
    assert len(data) == 4

    def read():
        found = []
        while (request := data.get_next()) is not None:
            found.append(request)
        return found

    whole = read()
    assert len(whole) == 4 and data.get_next() is None
    data.set_range(start_index=1, end_index=3)
    assert read() == whole[1:3]
