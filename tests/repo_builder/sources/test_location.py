from __future__ import annotations

import json

import pytest

from repo_builder.sources.base import SourceContext
from repo_builder.sources.location import (
    cached_snapshot,
    fetch_snapshot,
    local_path,
    model_path,
    model_state,
)
from tritonfleet.errors import SourceUnavailable


def test_a_relative_path_starts_at_the_fleet_file(tmp_path):
    (tmp_path / "models" / "bert").mkdir(parents=True)
    assert local_path("m", "models/bert", tmp_path) == tmp_path / "models" / "bert"


def test_what_is_no_path_here_may_be_a_hub_id(tmp_path):
    assert local_path("m", "organisation/name", tmp_path) is None
    assert local_path("m", "name", tmp_path) is None


@pytest.mark.parametrize("where", ["./bert", "/no/such/folder", "../x", "a/b/c", "with space"])
def test_what_can_only_be_a_path_must_be_there(tmp_path, where):
    with pytest.raises(SourceUnavailable, match="there is nothing at"):
        local_path("m", where, tmp_path)


def test_a_folder_inside_an_installed_package(tmp_path):
    found = local_path("m", "package:json/decoder.py", tmp_path)
    assert found.name == "decoder.py" and found.parent.name == json.__name__


def test_a_package_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(SourceUnavailable, match="no package 'no_such_package' is installed"):
        local_path("m", "package:no_such_package/model", tmp_path)


def test_a_folder_the_package_has_not_is_named(tmp_path):
    with pytest.raises(SourceUnavailable, match="package 'json' has no 'a/b'"):
        local_path("m", "package:json/a/b", tmp_path)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A hub cache that holds commit c0ffee of org/tiny."""
    from huggingface_hub import constants

    root = tmp_path / "models--org--tiny"
    snapshot = root / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    return snapshot


def test_a_cached_snapshot_is_used_without_asking_the_hub(hub_cache):
    assert fetch_snapshot("m", "org/tiny", None, ("config.json",)) == hub_cache


def test_a_snapshot_that_lacks_a_file_is_not_complete(hub_cache):
    assert cached_snapshot("org/tiny", None, ("config.json", "*.safetensors")) is None
    assert cached_snapshot("org/tiny", "other", ("config.json",)) is None


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_out(hub_cache):
    with pytest.raises(SourceUnavailable) as caught:
        fetch_snapshot("m", "org/other", "v1", ("config.json",))
    assert "'org/other' at revision 'v1' is not on this machine" in str(caught.value)
    assert "name its directory" in str(caught.value)


def test_a_model_is_a_hub_id_or_any_location(hub_cache, tmp_path):
    context = SourceContext("m", tmp_path, tmp_path / "repository", tmp_path / "cache")
    wanted = (None, ("config.json",), context)
    assert model_path("org/tiny", *wanted) == hub_cache
    assert model_state("org/tiny", *wanted, str) == {"commit": "c0ffee"}
    assert model_state("org/unknown", *wanted, str) is None
    (tmp_path / "bert").mkdir()
    assert model_path("bert", *wanted) == tmp_path / "bert"
    assert model_state("bert", *wanted, str) == {"digest": str(tmp_path / "bert")}


def test_an_address_is_never_taken_for_a_hub_id(tmp_path):
    context = SourceContext("m", tmp_path, tmp_path / "repository", tmp_path / "cache")
    with pytest.raises(SourceUnavailable, match="there is nothing at memory://no/such"):
        model_path("memory://no/such", None, ("config.json",), context)
