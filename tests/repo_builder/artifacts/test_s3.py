from __future__ import annotations

import multiprocessing

import pytest
from s3fs import S3FileSystem

from repo_builder.artifacts import artifact_path, artifact_state
from tests.repo_builder.builders import files
from tritonfleet.errors import SourceUnavailable

pytestmark = pytest.mark.build
FILE, FOLDER = "s3://models/bert/model.onnx", "s3://models/bert"


def state(where, context):
    return artifact_state(where, context, lambda path: f"digest of {path.name}")


def go_offline(monkeypatch):
    S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")


def test_a_file_is_brought_under_its_own_name(s3, context):
    s3.put("bert/model.onnx", b"weights")
    path = artifact_path(FILE, context)
    assert (path.name, path.read_bytes()) == ("model.onnx", b"weights")
    assert path.is_relative_to(context.cache)


def test_a_folder_comes_with_all_that_is_below_it(s3, context):
    s3.put("bert/model.onnx", b"graph")
    s3.put("bert/data/weights.bin", b"weights")
    s3.put("bert/empty/", b"")
    s3.put("bertha/other", b"not of it")
    assert files(artifact_path(FOLDER, context)) == {
        "model.onnx": b"graph", "data/weights.bin": b"weights",
    }  # fmt: skip


def test_what_follows_a_hash_sign_is_chosen_from_the_folder(s3, context):
    s3.put("bert/model.onnx", b"graph")
    s3.put("bert/weights.bin", b"weights")
    path = artifact_path(f"{FOLDER}#model.onnx", context)
    assert sorted(files(path.parent)) == ["model.onnx", "weights.bin"]
    with pytest.raises(SourceUnavailable, match=r"has no 'other'. It has model.onnx, weights.bin"):
        artifact_path(f"{FOLDER}#other", context)


def test_what_has_not_changed_is_not_read_again(s3, context):
    s3.put("bert/model.onnx", b"weights")
    assert state(FILE, context) is None
    first = artifact_path(FILE, context)
    known, read = state(FILE, context), s3.downloads()
    assert read > 0
    assert known is not None
    assert artifact_path(FILE, context) == first
    assert (state(FILE, context), s3.downloads()) == (known, read)


def test_a_changed_object_is_fetched_anew(s3, context):
    s3.put("bert/model.onnx", b"weights")
    before = artifact_path(FILE, context), state(FILE, context)
    s3.put("bert/model.onnx", b"WEIGHTS")
    assert state(FILE, context) is None
    assert artifact_path(FILE, context).read_bytes() == b"WEIGHTS"
    assert state(FILE, context) != before[1]
    assert before[0].read_bytes() == b"weights"


def test_content_is_what_counts_and_not_where_it_lies(s3, context):
    s3.put("bert/model.onnx", b"weights")
    s3.put("copy/model.onnx", b"weights")
    assert artifact_path(FILE, context) == artifact_path("s3://models/copy/model.onnx", context)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("s3://models/no/such.onnx", "there is nothing at s3://models/no/such.onnx"),
        ("s3://no-such-bucket/model.onnx", "bucket of s3://no-such-bucket/model.onnx does not"),
    ],
)
def test_what_is_not_there_is_named(s3, context, where, text):
    for ask in (artifact_path, state):
        with pytest.raises(SourceUnavailable, match=text):
            ask(where, context)


def test_missing_credentials_are_told_with_the_variables_to_set(s3, context, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SourceUnavailable, match=r"no credentials for s3.*AWS_ACCESS_KEY_ID"):
        artifact_path(FILE, context)


def test_credentials_that_the_store_does_not_know_are_told(s3, context, monkeypatch):
    s3.put("bert/model.onnx", b"weights")
    s3.check_credentials()
    with pytest.raises(SourceUnavailable, match=r"access to .*model\.onnx is denied"):
        artifact_path(FILE, context)


def test_a_store_that_nobody_answers_for_is_told(s3, context, monkeypatch):
    go_offline(monkeypatch)
    with pytest.raises(SourceUnavailable, match="nobody answers for s3://models/bert"):
        artifact_path(FILE, context)


def test_offline_the_copy_of_an_earlier_build_serves(s3, context, monkeypatch, caplog):
    s3.put("bert/model.onnx", b"weights")
    path, known = artifact_path(FILE, context), state(FILE, context)
    go_offline(monkeypatch)
    assert (artifact_path(FILE, context), state(FILE, context)) == (path, known)
    assert "the copy in the cache is used" in caplog.text


def _bring(context, barrier):
    barrier.wait()
    assert artifact_path(FOLDER, context).is_dir()


def test_two_builds_at_once_bring_it_once(s3, context):
    for name in ("a", "b", "c"):
        s3.put(f"bert/{name}", name.encode() * 100_000)
    processes = multiprocessing.get_context("spawn")
    barrier = processes.Barrier(2)
    builds = [processes.Process(target=_bring, args=(context, barrier)) for _ in range(2)]
    for build in builds:
        build.start()
    for build in builds:
        build.join()
    assert [build.exitcode for build in builds] == [0, 0]
    assert s3.downloads() == 3
    assert sorted(files(artifact_path(FOLDER, context))) == ["a", "b", "c"]
