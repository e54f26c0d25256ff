"""Repositories on disk, and the manifest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tritonfleet.errors import InvalidSpec
from tritonfleet.server.layout import (
    Manifest,
    ManifestEntry,
    model_versions,
    published_models,
    read_manifest,
    replace_text,
    write_manifest,
)

ENTRY = ManifestEntry(
    fingerprint="f", version=3, backend="onnxruntime", source={}, digest="d", artifact_bytes=7
)


def test_versions_are_the_ones_triton_sees(tmp_path):
    for name in ("1", "10", "2", "007", "v1", "0", "x"):
        (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file")
    assert model_versions(tmp_path) == (0, 1, 2, 10)


def test_a_folder_without_config_is_no_model(tmp_path):
    for name in ("bert", ".staging", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "bert" / "config.pbtxt").touch()
    (tmp_path / ".staging" / "config.pbtxt").touch()
    assert published_models(tmp_path) == ("bert",)


def test_a_manifest_survives_the_disk(tmp_path):
    manifest = Manifest().with_entry("bert", ENTRY)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_damaged_manifest_says_what_to_do(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InvalidSpec, match="delete it and run 'tritonfleet build'"):
        read_manifest(tmp_path)


def test_a_failed_replacement_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "pins.json"
    replace_text(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_may_be_replaced_from_several_threads_at_once(tmp_path):
    file = tmp_path / "state.json"
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: replace_text(file, str(number)), range(60)))
    assert file.read_text() in map(str, range(60))
    assert list(tmp_path.iterdir()) == [file]
