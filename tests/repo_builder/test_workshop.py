from __future__ import annotations

import pytest

from repo_builder.workshop import select, stale_models
from tests.repo_builder.builders import ensemble, fleet, torch_model
from tritonfleet.errors import InvalidModelConfig, ModelNotFound
from tritonfleet.server.layout import Manifest, ManifestEntry, write_manifest

MODELS = {
    "outer": ensemble("inner", outputs=["y"]),
    "inner": ensemble("b", "a", outputs=["y"]),
    "a": torch_model("linear"),
    "b": torch_model("linear"),
    "alone": torch_model("linear"),
}


def test_all_models_are_built_members_first():
    assert select(fleet(MODELS)) == ("b", "a", "inner", "outer", "alone")


def test_naming_an_ensemble_builds_its_members_too_and_nothing_else():
    assert select(fleet(MODELS), ["inner"]) == ("b", "a", "inner")


def test_a_model_named_twice_is_built_once():
    assert select(fleet(MODELS), ["a", "inner", "a"]) == ("a", "b", "inner")


def test_an_unknown_name_is_answered_with_a_guess():
    with pytest.raises(ModelNotFound, match="Did you mean 'alone'"):
        select(fleet(MODELS), ["alnoe"])


def test_an_unknown_member_is_the_ensemble_s_mistake():
    spec = fleet({"whole": ensemble("part", outputs=["y"]), "party": torch_model("linear")})
    with pytest.raises(InvalidModelConfig, match=r"whole: .*'part' .*Did you mean 'party'"):
        select(spec)


def test_an_ensemble_that_contains_itself_is_refused_with_the_circle():
    circle = {"a": ensemble("b", outputs=["y"]), "b": ensemble("a", outputs=["y"])}
    with pytest.raises(InvalidModelConfig, match="a -> b -> a"):
        select(fleet(circle))


def test_models_built_here_that_left_the_fleet_are_stale_and_foreign_folders_are_not(tmp_path):
    made = ManifestEntry(
        fingerprint="f", version=1, backend="python", source={}, digest="d", artifact_bytes=1
    )
    write_manifest(tmp_path, Manifest(models={"a": made, "gone": made}))
    (tmp_path / "foreign").mkdir()
    assert stale_models(fleet(MODELS), tmp_path) == ("gone",)
