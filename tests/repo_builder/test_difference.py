from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

from repo_builder import difference, fingerprint, plan
from repo_builder.difference import differences
from repo_builder.pipeline import build_fleet
from repo_builder.publishing.rollback import roll_back
from tests.repo_builder.builders import ensemble, files, python_model, shop
from tests.repo_builder.publishing.test_rollback import NOW
from tritonfleet.errors import ModelNotFound
from tritonfleet.server.layout import read_manifest, write_manifest


@pytest.fixture
def models(tmp_path):
    return {
        "echo": python_model(tmp_path, "echo"),
        "other": python_model(tmp_path, "other"),
        "whole": ensemble("echo", outputs=["y"]),
    }


@pytest.fixture
def work(tmp_path, models):
    """Makes a shop of the models as they are now."""
    return lambda: shop(tmp_path, models, proof=False)


@pytest.fixture
def built(work):
    report = build_fleet(work())
    assert not report.failed
    return work


def actions(shop, *models):
    return {change.model: change.action for change in differences(shop, models)}


def changed(shop, model):
    return next(change for change in differences(shop) if change.model == model)


def test_a_fleet_that_was_never_built_is_new(work):
    assert actions(work()) == {"echo": "new", "other": "new", "whole": "new"}


def test_after_a_build_nothing_would_change(built):
    assert actions(built()) == {"echo": "unchanged", "other": "unchanged", "whole": "unchanged"}


def test_telling_writes_nothing_into_the_repository(built, models, tmp_path):
    models["echo"]["serving"] = {"instance_group": [{"count": 3}]}
    before = files(tmp_path / "repository")
    differences(built())
    assert files(tmp_path / "repository") == before


def test_another_source_file_is_told_and_the_ensemble_with_it(built, tmp_path):
    python_model(tmp_path, "echo", code="class TritonPythonModel:\n    changed = True\n")
    echo, whole = changed(built(), "echo"), changed(built(), "whole")
    assert (echo.action, echo.reasons) == ("artifact", ("files of the source changed",))
    assert (whole.action, whole.reasons) == ("artifact", ("its member 'echo' would be built",))
    assert actions(built())["other"] == "unchanged"


def test_data_that_a_warm_up_reads_is_no_hindrance(built, models, tmp_path):
    numpy.save(tmp_path / "row.npy", numpy.ones(4, numpy.float32))
    models["echo"]["serving"] = {"warmup": [{"files": {"x": "row.npy"}}]}
    change = changed(built(), "echo")
    assert (change.action, "+model_warmup" in change.config) == ("config", True)


def test_another_serving_option_shows_the_lines_that_would_change(built, models):
    models["echo"]["serving"] = {"instance_group": [{"count": 3}]}
    change = changed(built(), "echo")
    assert (change.action, change.reasons) == ("config", ("serving options changed",))
    lines = change.config.splitlines()
    assert lines[:2] == ["--- echo/config.pbtxt", "+++ echo/config.pbtxt (would be)"]
    assert any(line.startswith("+") and "3" in line for line in lines[2:])


def test_a_package_that_moved_is_told_with_both_versions(built, monkeypatch):
    versions = {**fingerprint.package_versions(), "torch": "9.9.9"}
    before = fingerprint.package_versions()["torch"]
    for module in (plan, difference):
        monkeypatch.setattr(module, "package_versions", lambda: versions)
    assert changed(built(), "echo").reasons == (f"packages changed: torch {before} -> 9.9.9",)


def test_files_that_were_edited_by_hand_are_told(built, tmp_path):
    (tmp_path / "repository/echo/1/model.py").write_text("edited")
    change = changed(built(), "echo")
    assert change.action == "artifact"
    assert change.reasons == ("the published files are not those of the manifest",)


def test_a_model_that_left_the_fleet_file_is_stale(built, models):
    del models["other"]
    assert actions(built())["other"] == "stale"
    assert "other" not in actions(built(), "echo")


def test_a_model_that_was_rolled_back_is_left_alone_until_it_changes(built, tmp_path):
    python_model(tmp_path, "echo", code="class TritonPythonModel:\n    bad = True\n")
    build_fleet(built())
    digests = built().digests
    roll_back("echo", tmp_path / "repository", digests, now=NOW)
    change = changed(built(), "echo")
    assert (change.action, change.reasons) == ("rejected", ("version 1 is served again",))
    python_model(tmp_path, "echo", code="class TritonPythonModel:\n    good = True\n")
    assert actions(built())["echo"] == "artifact"


def test_force_is_a_reason(built):
    change = changed(replace(built(), force=True), "echo")
    assert (change.action, change.reasons) == ("artifact", ("asked for by --force",))


def test_an_entry_of_an_earlier_release_cannot_say_why(built, tmp_path, models):
    repository = tmp_path / "repository"
    manifest = read_manifest(repository)
    entry = manifest.models["echo"].model_copy(update={"parts": {}, "fingerprint": "x:y"})
    write_manifest(repository, manifest.with_entry("echo", entry))
    assert "did not record why" in changed(built(), "echo").reasons[0]


def test_only_the_named_models_and_their_members_are_compared(built):
    assert list(actions(built(), "whole")) == ["echo", "whole"]
    with pytest.raises(ModelNotFound, match="Did you mean 'whole'"):
        differences(built(), ["wohle"])


def test_what_cannot_be_told_is_said_with_the_cause(built, models, tmp_path):
    models["echo"]["serving"] = {"labels": {"y": "nowhere.txt"}}
    change = changed(built(), "echo")
    assert change.action == "unknown"
    assert "nowhere.txt" in change.reasons[0]
