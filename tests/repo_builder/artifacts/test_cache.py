from __future__ import annotations

import multiprocessing
import os

import pytest

from repo_builder.artifacts.cache import Cache
from tests.repo_builder.builders import files


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", "s3://bucket/bert")


def keep(cache, version, **contents):
    with cache.locked(), cache.room() as room:
        payload = room / "bert"
        payload.mkdir()
        for name, text in contents.items():
            (payload / name).write_text(text)
        return cache.keep(version, payload)


def test_what_is_kept_is_found_by_its_version(cache):
    kept = keep(cache, "1", model="weights")
    assert cache.find("1") == kept
    assert files(cache.path(kept)) == {"model": b"weights"}
    assert cache.find("2") is None


def test_other_content_lies_beside_and_equal_content_lies_once(cache):
    one, other = keep(cache, "1", model="weights"), keep(cache, "2", model="WEIGHTS")
    assert cache.path(one) != cache.path(other)
    assert keep(cache, "3", model="weights") == one
    assert len(list(cache.root.glob("content/*"))) == 2


def test_addresses_do_not_know_of_each_other(cache):
    keep(cache, "1", model="weights")
    other = Cache(cache.root, "s3://bucket/other")
    assert other.find("1") is None and other.newest() is None


def test_the_newest_is_the_one_that_was_confirmed_last(cache):
    one, _ = keep(cache, "1", model="a"), keep(cache, "2", model="b")
    for record in cache.root.glob("known/*/*.json"):
        os.utime(record, (1, 1))
    cache.confirm("1")
    assert cache.newest() == one


@pytest.mark.parametrize("damage", ["truncate", "remove", "add"])
def test_a_copy_that_lacks_something_is_not_found(cache, damage):
    file = cache.path(keep(cache, "1", model="weights", other="x")) / "model"
    if damage == "truncate":
        file.write_text("w")
    elif damage == "remove":
        file.unlink()
    else:
        file.with_name("more").write_text("x")
    assert cache.find("1") is None and cache.newest() is None


def test_a_copy_with_changed_bytes_is_told_and_replaced(cache):
    kept = keep(cache, "1", model="weights")
    (cache.path(kept) / "model").write_text("WEIGHTS")
    assert not cache.is_intact(kept)
    keep(cache, "1", model="weights")
    assert cache.is_intact(kept)


def test_a_damaged_record_counts_as_none(cache):
    keep(cache, "1", model="weights")
    for record in cache.root.glob("known/*/*.json"):
        record.write_text("{")
    assert cache.find("1") is None


def test_what_a_killed_download_left_is_cleared(cache):
    with cache.locked(), cache.room() as left:
        pass
    left.mkdir()
    (left / "half").write_text("x")
    with cache.locked(), cache.room() as room:
        assert room == left and not list(room.iterdir())


def _count_up(cache, counter):
    for _ in range(20):
        with cache.locked():
            counter.write_text(str(int(counter.read_text()) + 1))


def test_builds_at_the_same_time_take_turns(cache, tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_count_up, args=(cache, counter)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counter.read_text() == "60"
