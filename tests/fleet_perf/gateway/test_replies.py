from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_perf.gateway.calls import Outcome
from fleet_perf.gateway.load import Record
from fleet_perf.gateway.replies import last_error_s, latency, longest_gap_s, read
from tests.fleet_perf.gateway.builders import replies

MOMENTS = st.lists(st.floats(0.0, 100.0), max_size=30)


def test_what_a_process_saved_is_read_back(tmp_path):
    record = Record()
    record.add(1.0, 1.5, Outcome(cold=True))
    record.add(2.0, 2.25, Outcome("503 no room"))
    record.add(3.0, 3.25, Outcome("503 no room"))
    record.save(tmp_path / "one.npz")
    found = read(tmp_path / "one.npz")
    assert found.ended_s.tolist() == [1.5, 2.25, 3.25]
    assert found.latency_s.tolist() == [0.5, 0.25, 0.25]
    assert found.cold.tolist() == [True, False, False]
    assert found.error_counts() == {"503 no room": 2}


def test_a_process_that_asked_nothing_saves_nothing(tmp_path):
    Record().save(tmp_path / "none.npz")
    found = read(tmp_path / "none.npz")
    assert (found.error_counts(), latency(found)) == ({}, None)


def test_latency_is_that_of_answers():
    found = latency(replies((1, 0.1, ""), (2, 0.2, ""), (3, 0.3, ""), (4, 9.0, "502")))
    assert found is not None
    assert (found.count, round(found.p50, 6), round(found.longest, 6)) == (3, 0.2, 0.3)


def test_some_of_the_rows_keep_their_errors():
    found = replies((1, 0.1, "a"), (2, 0.1, ""), (3, 0.1, "b"))
    assert found.those(found.ended_s > 1.5).error_counts() == {"b": 1}


def test_an_error_is_no_answer_in_a_silence():
    found = replies((1, 0.1, ""), (2, 0.1, "502"), (4, 0.1, ""))
    assert longest_gap_s(found, 0.5, 4.5) == 3.0


def test_silence_until_the_end_is_silence():
    assert longest_gap_s(replies((1, 0.1, "")), 0.0, 10.0) == 9.0
    assert longest_gap_s(replies((1, 0.1, "")), 2.0, 10.0) == 8.0


@given(MOMENTS)
def test_a_silence_is_never_longer_than_the_time_nor_shorter_than_its_share(moments):
    found = replies(*((moment, 0.1, "") for moment in moments))
    gap_s = longest_gap_s(found, 10.0, 90.0)
    assert gap_s <= 80.0
    assert gap_s >= 80.0 / (len(moments) + 1) - 1e-9


@given(MOMENTS, st.floats(0.0, 100.0))
def test_one_more_answer_never_makes_a_silence_longer(moments, another):
    before = replies(*((moment, 0.1, "") for moment in moments))
    after = replies(*((moment, 0.1, "") for moment in [*moments, another]))
    assert longest_gap_s(after, 0.0, 100.0) <= longest_gap_s(before, 0.0, 100.0)


@pytest.mark.parametrize(("rows", "last"), [((), None), (((1, 0.1, ""),), None),
                                            (((5, 0.1, "x"), (2, 0.1, "x")), 5.0)])  # fmt: skip
def test_the_last_error_is_the_latest(rows, last):
    assert last_error_s(replies(*rows)) == last


def test_more_kinds_of_errors_than_fit_a_byte_are_told_apart(tmp_path):
    record = Record()
    for kind in range(300):
        record.add(0.0, float(kind), Outcome(f"error {kind}"))
    record.save(tmp_path / "many.npz")
    found = read(tmp_path / "many.npz")
    assert numpy.unique(found.error).size == 300
    assert set(found.error_counts()) == {f"error {kind}" for kind in range(300)}
