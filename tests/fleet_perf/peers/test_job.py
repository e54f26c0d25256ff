from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_perf.peers.job import NETWORKS, Job, cold_order, lru_hits, slices, zipf_trace

TRACES = st.lists(st.sampled_from("abcdef"), max_size=60)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_model_has_25_megabytes_of_weights(name):
    assert NETWORKS[name].weight_bytes == pytest.approx(25e6, rel=0.03)


def test_the_same_seed_gives_the_same_trace_and_another_seed_another_one():
    assert zipf_trace(Job(), 50) == zipf_trace(Job(), 50)
    assert zipf_trace(Job(), 50) != zipf_trace(Job(seed=21), 50)


def test_the_trace_follows_zipf():
    counts = [count for _, count in Counter(zipf_trace(Job(), 20_000)).most_common()]
    assert len(counts) == Job().models
    harmonic = sum(1 / rank for rank in range(1, 25))
    for rank in (1, 2, 5):
        assert counts[rank - 1] / 20_000 == pytest.approx(1 / rank / harmonic, rel=0.1)


def test_the_popular_models_are_not_simply_the_first_ones():
    (most, _), *_ = Counter(zipf_trace(Job(), 5000)).most_common(1)
    assert most != Job().names[0]


@given(TRACES, st.integers(1, 9))
def test_slices_are_the_trace_in_its_order(trace, size):
    parts = slices(trace, size)
    assert list(itertools.chain(*parts)) == trace
    assert all(len(part) == size for part in parts[:-1])


@given(st.integers(2, 12), st.data(), st.integers(1, 60))
def test_no_cache_with_less_room_than_models_ever_hits_in_the_cold_order(models, data, count):
    room = data.draw(st.integers(1, models - 1))
    asked = list(itertools.islice(cold_order(Job(models=models)), count))
    assert lru_hits(asked, room) == 0


@given(TRACES, st.integers(1, 6))
def test_a_hit_is_a_model_among_the_last_different_ones(trace, room):
    expected = 0
    for index, name in enumerate(trace):
        recent = list(dict.fromkeys(reversed(trace[:index])))[:room]
        expected += name in recent
    assert lru_hits(trace, room) == expected


def test_what_was_in_memory_before_counts():
    assert lru_hits("ab", 2, resident="ab") == 2
    assert lru_hits("ca", 2, resident="ab") == 0
