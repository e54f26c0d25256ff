from __future__ import annotations

import os
from pathlib import Path

import pytest

from repo_builder import fingerprint
from repo_builder.fingerprint import DigestCache, Fingerprint, digest_of, package_versions

LONG_AGO = 1_000_000_000


def settled(path: Path, text: str) -> Path:
    """A file that was last written long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def cache(tmp_path):
    return DigestCache.load(tmp_path / "state" / "digests.json")


def test_a_fingerprint_survives_its_text():
    assert Fingerprint.parse(str(Fingerprint("a", "b"))) == Fingerprint("a", "b")


def test_a_foreign_text_matches_nothing():
    assert Fingerprint.parse("abc") != Fingerprint("abc", "def")


def test_facts_in_another_order_are_the_same_facts():
    assert digest_of({"a": 1, "b": {"c": 2, "d": 3}}) == digest_of({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_our_own_format_is_part_of_every_digest(monkeypatch):
    before = digest_of({"a": 1})
    monkeypatch.setattr(fingerprint, "FORMAT", fingerprint.FORMAT + 1)
    assert digest_of({"a": 1}) != before


def test_versions_are_those_of_what_exports_models():
    assert {"torch", "onnx", "transformers"} <= set(package_versions())


def test_a_file_is_known_by_its_bytes(cache, tmp_path):
    one, same, other = (settled(tmp_path / n, t) for n, t in (("a", "x"), ("b", "x"), ("c", "y")))
    assert cache(one) == cache(same) != cache(other)


def test_a_folder_is_known_by_names_and_bytes_but_not_by_byte_code(cache, tmp_path):
    for name in ("one", "two"):
        settled(tmp_path / name / "model.py", "x")
        settled(tmp_path / name / "data" / "words", "y")
    settled(tmp_path / "one" / "__pycache__" / "model.cpython-311.pyc", "z")
    assert cache(tmp_path / "one") == cache(tmp_path / "two")
    (tmp_path / "two" / "data" / "words").rename(tmp_path / "two" / "data" / "other")
    assert cache(tmp_path / "one") != cache(tmp_path / "two")


def test_an_unchanged_file_is_not_read_again(cache, tmp_path, monkeypatch):
    file = settled(tmp_path / "a", "x")
    found = cache(file)
    cache.save()
    monkeypatch.setattr(fingerprint, "sha256_of", lambda path: pytest.fail(f"read {path}"))
    assert DigestCache.load(cache.file)(file) == found


def test_a_change_of_size_or_time_is_seen(cache, tmp_path):
    file = settled(tmp_path / "a", "x")
    before = cache(file)
    settled(file, "longer")
    longer = cache(file)
    file.write_text("newest")
    assert len({before, longer, cache(file)}) == 3


def test_a_file_written_a_moment_ago_is_read_each_time(cache, tmp_path):
    file = tmp_path / "a"
    file.write_text("x")
    stat, before = file.stat(), cache(file)
    file.write_text("y")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache(file) != before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": ["x", 1, "y"]}'])
def test_a_damaged_cache_is_an_empty_one(tmp_path, text):
    (tmp_path / "digests.json").write_text(text)
    file = settled(tmp_path / "a", "x")
    assert DigestCache.load(tmp_path / "digests.json")(file) == fingerprint.sha256_of(file)


def test_files_that_are_gone_are_forgotten(cache, tmp_path):
    file = settled(tmp_path / "a", "x")
    settled(tmp_path / "b", "y")
    cache(file)
    cache(tmp_path / "b")
    file.unlink()
    cache.save()
    assert str(file) not in cache.file.read_text()
    assert str(tmp_path / "b") in cache.file.read_text()


def test_nothing_learned_writes_nothing(cache):
    cache.save()
    assert not cache.file.exists()
