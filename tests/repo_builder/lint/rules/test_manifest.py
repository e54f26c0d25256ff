from __future__ import annotations

import hashlib

import pytest

from tests.repo_builder.lint.builders import found, onnx_model, told
from tritonfleet.server.layout import Manifest, ManifestEntry, write_manifest

FILES = ("config.pbtxt", "1/model.onnx")


@pytest.fixture
def built(tmp_path):
    model = onnx_model(tmp_path)
    digests = {name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in FILES}
    entry = ManifestEntry(fingerprint="f", version=1, backend="onnxruntime", source={}, digest="d",
                          files=digests, artifact_bytes=1)  # fmt: skip
    write_manifest(tmp_path, Manifest().with_entry("m", entry))
    return model


def test_a_repository_that_is_as_it_was_built_has_no_findings(built):
    assert told(built.parent) == ""


def test_a_file_that_was_changed_is_found(built):
    with (built / "config.pbtxt").open("a") as config:
        config.write("# by hand")
    assert found(built.parent) == ["manifest-drift"]
    assert "tritonfleet verify" in told(built.parent)


def test_a_version_that_is_gone_is_found(built):
    (built / "1").rename(built / "2")
    assert found(built.parent) == ["manifest-drift"] * 2


def test_a_model_that_is_gone_is_found(built):
    for name in FILES:
        (built / name).unlink()
    (built / "1").rmdir()
    built.rmdir()
    assert found(built.parent) == ["manifest-drift"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]"])
def test_a_damaged_manifest_is_found(built, content):
    (built.parent / "manifest.json").write_bytes(content)
    assert found(built.parent) == ["manifest"]
