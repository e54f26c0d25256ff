from __future__ import annotations

import shutil

import pytest

from repo_builder.publishing import verify as proof
from repo_builder.publishing.verify import total_bytes, verify
from tests.repo_builder.builders import product
from tests.repo_builder.publishing.test_rollback import publish
from tritonfleet.errors import PublishFailed
from tritonfleet.server.layout import read_manifest, write_manifest


@pytest.fixture
def repository(tmp_path):
    """Two models, one of them with two versions and labels."""
    folder = tmp_path / "repository"
    labelled = product(labels={"y": ("a", "b", "c")})
    publish(folder, "one", made=labelled)
    publish(folder, "two", made=labelled)
    publish(folder, "other", model="n")
    return folder


def found(*repositories):
    return [(each.path, each.kind) for each in verify(*repositories).differences]


def test_what_was_just_published_is_identical(repository):
    verdict = verify(repository)
    assert verdict.differences == ()
    assert (verdict.files, verdict.size) == (6, total_bytes(repository))
    assert verdict.to_json()["ok"] is True


@pytest.mark.parametrize(
    "path", ["m/1/model.onnx", "m/2/model.onnx", "m/config.pbtxt", "m/y_labels.txt"]
)
def test_one_changed_byte_in_any_file_is_found(repository, path):
    file = repository / path
    content = file.read_bytes()
    file.unlink()  # older versions share their bytes with nobody, but may
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert found(repository) == [(path, "changed")]


def test_a_missing_file_is_named(repository):
    (repository / "m/1/model.onnx").unlink()
    assert found(repository) == [("m/1/model.onnx", "missing")]


def test_an_extra_file_is_named(repository):
    (repository / "m/1/model.data").write_text("what is this")
    assert found(repository) == [("m/1/model.data", "extra")]


def test_a_model_that_the_manifest_does_not_know_is_extra(repository):
    (repository / "stranger/1").mkdir(parents=True)
    (repository / "stranger/1/model.py").write_text("")
    assert found(repository) == [("stranger/1/model.py", "extra")]


def test_a_model_that_is_gone_is_missing_with_all_its_files(repository):
    shutil.rmtree(repository / "n")
    assert found(repository) == [("n/1/model.onnx", "missing"), ("n/config.pbtxt", "missing")]


def test_byte_code_and_files_beside_the_models_are_no_difference(repository):
    (repository / "m/2/__pycache__").mkdir()
    (repository / "m/2/__pycache__/model.cpython-311.pyc").write_bytes(b"\0")
    (repository / "README.md").write_text("what lies here")
    assert found(repository) == []


def test_links_are_named_and_not_followed(repository, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret").write_text("secret")
    (repository / "linked").symlink_to(tmp_path / "elsewhere")
    (repository / "m/folder").symlink_to(tmp_path / "elsewhere")
    weights = repository / "m/1/model.onnx"
    weights.rename(tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    assert found(repository) == [
        ("linked", "link"), ("m/1/model.onnx", "link"), ("m/folder", "link")
    ]  # fmt: skip


def test_a_model_of_an_older_manifest_is_unrecorded(repository):
    manifest = read_manifest(repository)
    entry = manifest.models["m"].model_copy(update={"files": {}})
    write_manifest(repository, manifest.with_entry("m", entry))
    assert found(repository) == [("m", "unrecorded")]


def test_a_replica_is_the_same_and_a_changed_one_is_not(repository, tmp_path):
    replica = tmp_path / "replica"
    shutil.copytree(repository, replica)
    assert found(repository, replica) == []
    (replica / "m/config.pbtxt").write_text("changed")
    (replica / "n/1/model.onnx").unlink()
    (replica / "n/extra").write_text("")
    assert found(repository, replica) == [
        ("m/config.pbtxt", "different"), ("n/1/model.onnx", "different"), ("n/extra", "different")
    ]  # fmt: skip


def test_a_replica_with_another_manifest_is_different_though_its_files_are_not(
    repository, tmp_path
):
    replica = tmp_path / "replica"
    shutil.copytree(repository, replica)
    manifest = read_manifest(replica)
    entry = manifest.models["n"].model_copy(update={"fingerprint": "another"})
    write_manifest(replica, manifest.with_entry("n", entry))
    assert found(repository, replica) == [("manifest.json: n", "different")]


def test_a_file_that_cannot_be_read_is_neither_missing_nor_changed(repository, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(proof, "sha256_of", denied)
    assert {kind for _, kind in found(repository)} == {"unreadable"}


def test_every_byte_is_reported_as_read(repository):
    read = []
    verify(repository, advance=read.append)
    assert sum(read) == total_bytes(repository)


def test_a_repository_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PublishFailed, match="nowhere: there is no such folder"):
        verify(tmp_path / "nowhere")


def test_each_difference_is_a_line_that_says_what_it_means(repository):
    (repository / "m/1/model.onnx").unlink()
    (difference,) = verify(repository).differences
    assert str(difference) == "m/1/model.onnx: in the manifest, but not on disk"
