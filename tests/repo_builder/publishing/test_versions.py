from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from repo_builder.publishing.versions import (
    GRACE_S,
    named_versions,
    served_versions,
    superseded_s,
    versions_to_keep,
)
from tests.repo_builder.publishing.test_publish import entry
from tritonfleet.server.layout import EarlierVersion
from tritonfleet.server.pbtxt import parse_config

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def policy(text: str = "latest { num_versions: 1 }"):
    return parse_config("m", f"version_policy {{ {text} }}").version_policy


def specific(*versions: int):
    return policy(f"specific {{ versions: {list(versions)} }}")


numbers = st.sets(st.integers(1, 12))
policies = st.one_of(
    st.just(policy("all {}")),
    st.integers(1, 4).map(lambda n: policy(f"latest {{ num_versions: {n} }}")),
    st.sets(st.integers(1, 12), min_size=1).map(lambda versions: specific(*sorted(versions))),
)


def test_without_a_policy_the_newest_is_served():
    assert served_versions(parse_config("m", "").version_policy, (1, 2, 3)) == (3,)


def test_each_policy_serves_what_it_says():
    assert served_versions(policy("all {}"), (1, 2, 3)) == (1, 2, 3)
    assert served_versions(policy("latest { num_versions: 2 }"), (1, 2, 3)) == (2, 3)
    assert served_versions(specific(1, 9), (1, 2, 3)) == (1,)
    assert named_versions(specific(1, 9)) == (1, 9)


@given(numbers, st.integers(1, 5), policies, policies)
def test_no_version_that_is_served_now_is_taken_away(present, keep, before, after):
    read_now = served_versions(before, present)
    kept = versions_to_keep(13, present, keep, after, read_now=read_now)
    assert set(read_now) <= set(kept)


@given(numbers, st.integers(1, 5), policies, numbers)
def test_what_stays_is_on_disk_and_the_new_version_always_does(present, keep, after, young):
    ages = dict.fromkeys(young, GRACE_S - 1)
    kept = versions_to_keep(13, present, keep, after, superseded_s=ages)
    assert {13, *(young & present)} <= set(kept) <= {13, *present}


@given(numbers, st.integers(1, 5), policies, numbers)
def test_nothing_is_served_by_a_configuration_that_is_not_its_own(present, keep, after, fitting):
    kept = versions_to_keep(13, present, keep, after, fits=lambda version: version in fitting)
    assert set(served_versions(after, kept)) <= {13, *fitting}


@given(numbers, st.integers(1, 5))
def test_no_more_stay_than_asked_where_nobody_reads_them(present, keep):
    old = dict.fromkeys(present, GRACE_S)
    kept = versions_to_keep(13, present, keep, policy(), superseded_s=old)
    assert kept == tuple(sorted({13, *present}))[-keep:]


def test_the_age_of_a_version_counts_from_the_next_one():
    built = {1: NOW, 2: NOW + timedelta(seconds=50)}
    earlier = {
        number: EarlierVersion(entry={"built_at": at.isoformat()}, files={})
        for number, at in built.items()
    }
    newest = entry(3).model_copy(
        update={"earlier": earlier, "built_at": (NOW + timedelta(seconds=70)).isoformat()}
    )
    assert superseded_s(newest, NOW + timedelta(seconds=100)) == {1: 50.0, 2: 30.0}


def test_times_that_nobody_wrote_down_or_that_are_none_give_no_age():
    earlier = {1: EarlierVersion(entry={}, files={})}
    assert superseded_s(entry(2).model_copy(update={"earlier": earlier}), NOW) == {}
    assert superseded_s(None, NOW) == {}


def test_a_time_without_a_zone_is_taken_as_universal():
    newest = entry(2).model_copy(
        update={"earlier": {1: EarlierVersion(entry={}, files={})}, "built_at": "2026-01-01T00:00"}
    )
    assert superseded_s(newest, NOW + timedelta(seconds=5)) == {1: 5.0}
