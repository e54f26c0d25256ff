"""Whole builds of models that need no PyTorch; those that do are in test_exports."""

from __future__ import annotations

import pytest

from repo_builder import workshop
from repo_builder.pipeline import build_fleet
from repo_builder.publishing.staging import open_staging
from repo_builder.sources.base import AssembledSource
from tests.repo_builder.builders import (
    ensemble,
    files,
    names,
    product,
    python_model,
    shop,
    torch_model,
)
from tritonfleet.errors import ModelNotFound, PublishFailed
from tritonfleet.server.layout import model_versions, read_manifest
from tritonfleet.server.pbtxt import read_config


class Notes:
    """Remembers what a build tells."""

    def __init__(self):
        self.phases, self.results, self.models = [], [], 0

    def begin(self, models):
        self.models = models

    def phase(self, model, phase):
        self.phases.append((model, phase))

    def finished(self, result):
        self.results.append((result.model, result.status))


@pytest.fixture
def models(tmp_path):
    """Two models and the ensemble that puts one behind the other."""
    second = {"model": "second", "input_map": {"x": "y"}, "output_map": {"y": "z"}}
    return {
        "whole": ensemble("first", second, outputs=["z"]),
        "first": python_model(tmp_path, "first"),
        "second": python_model(tmp_path, "second"),
    }


def statuses(report):
    return {result.model: result.status for result in report.results}


def test_a_fleet_is_built_members_first(tmp_path, models):
    notes = Notes()
    report = build_fleet(shop(tmp_path, models, watcher=notes))
    assert notes.results == [("first", "built"), ("second", "built"), ("whole", "built")]
    assert notes.models == 3
    assert notes.phases[:2] == [("first", "assemble"), ("first", "publish")]
    assert not report.failed
    assert names(tmp_path / "repository") == ["first", "manifest.json", "second", "whole"]
    assert read_config(tmp_path / "repository", "whole").max_batch_size == 8


def test_the_manifest_tells_what_was_built_from_what(tmp_path, models):
    build_fleet(shop(tmp_path, models))
    entry = read_manifest(tmp_path / "repository").models["whole"]
    assert entry.requires == ("first", "second")
    assert (entry.version, entry.backend, entry.source["kind"]) == (1, "ensemble", "ensemble")
    assert "torch" in entry.packages and entry.timings_s.keys() == {"assemble", "publish"}
    assert read_manifest(tmp_path / "repository").models["first"].artifact_bytes > 0


def test_an_unchanged_fleet_is_left_alone(tmp_path, models):
    build_fleet(shop(tmp_path, models))
    before = files(tmp_path / "repository")
    report = build_fleet(shop(tmp_path, models))
    assert set(statuses(report).values()) == {"unchanged"}
    assert files(tmp_path / "repository") == before


def test_force_builds_it_all_the_same(tmp_path, models):
    build_fleet(shop(tmp_path, models))
    report = build_fleet(shop(tmp_path, models, force=True))
    assert {(r.status, r.version) for r in report.results} == {("built", 2)}


def test_a_changed_source_builds_the_model_and_the_ensembles_above_it(tmp_path, models):
    build_fleet(shop(tmp_path, models))
    (tmp_path / "second" / "words.txt").write_text("new")
    report = build_fleet(shop(tmp_path, models))
    assert statuses(report) == {"first": "unchanged", "second": "built", "whole": "built"}


@pytest.mark.parametrize("serving", [{"max_batch_size": 4}, {"instance_group": [{"count": 2}]}])
def test_another_way_of_serving_is_a_change(tmp_path, models, serving):
    build_fleet(shop(tmp_path, models))
    models["first"]["serving"] = serving
    assert statuses(build_fleet(shop(tmp_path, models)))["first"] == "built"


@pytest.mark.parametrize("file", ["first/config.pbtxt", "first/1/model.py"])
def test_a_published_file_that_was_touched_is_made_anew(tmp_path, models, file):
    build_fleet(shop(tmp_path, models))
    with (tmp_path / "repository" / file).open("a") as published:
        published.write("# edited\n")
    report = build_fleet(shop(tmp_path, models))
    assert statuses(report)["first"] == "built"
    newest = file.replace("/1/", "/2/")
    assert "# edited" not in (tmp_path / "repository" / newest).read_text()


def test_byte_code_that_triton_leaves_behind_is_no_change(tmp_path, models):
    build_fleet(shop(tmp_path, models))
    cache = tmp_path / "repository" / "first" / "1" / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"x")
    assert statuses(build_fleet(shop(tmp_path, models)))["first"] == "unchanged"


def test_a_deleted_model_comes_back(tmp_path, models):
    build_fleet(shop(tmp_path, models))
    (tmp_path / "repository" / "first").rename(tmp_path / "elsewhere")
    report = build_fleet(shop(tmp_path, models))
    assert statuses(report)["first"] == "built"
    assert model_versions(tmp_path / "repository" / "first") == (1,)


def test_one_failure_takes_only_its_ensembles_along(tmp_path, models):
    models["second"] = python_model(tmp_path, "second", code="class Wrong: ...")
    models["other"] = python_model(tmp_path, "other")
    report = build_fleet(shop(tmp_path, models))
    assert statuses(report) == {
        "first": "built", "second": "failed", "whole": "failed", "other": "built"
    }  # fmt: skip
    told = {result.model: str(result.error) for result in report.failed}
    assert "defines no TritonPythonModel" in told["second"]
    assert told["whole"] == "whole: its member 'second' failed. Repair that one first."
    assert names(tmp_path / "repository") == ["first", "manifest.json", "other"]


def test_a_failure_leaves_what_was_published(tmp_path, models):
    build_fleet(shop(tmp_path, models))
    before = files(tmp_path / "repository")
    (tmp_path / "second" / "model.py").write_text("not python (")
    report = build_fleet(shop(tmp_path, models))
    assert [result.model for result in report.failed] == ["second", "whole"]
    assert files(tmp_path / "repository") == before


def test_a_source_that_cannot_be_read_is_that_model_s_failure(tmp_path, models, monkeypatch):
    def unreadable(*_):
        raise PermissionError(13, "Permission denied", "first/model.py")

    monkeypatch.setattr("repo_builder.fingerprint.sha256_of", unreadable)
    report = build_fleet(shop(tmp_path, models))
    assert len(report.failed) == 3
    assert "first/model.py: Permission denied" in str(report.failed[0].error)


def test_only_what_is_named_is_built(tmp_path, models):
    report = build_fleet(shop(tmp_path, models), ["first"])
    assert statuses(report) == {"first": "built"}


def test_an_unknown_name_touches_nothing(tmp_path, models):
    with pytest.raises(ModelNotFound):
        build_fleet(shop(tmp_path, models), ["frist"])
    assert not (tmp_path / "repository").exists()


def test_a_repository_that_is_being_built_is_left_alone(tmp_path, models):
    with open_staging(tmp_path / "repository"):
        with pytest.raises(PublishFailed, match="another build"):
            build_fleet(shop(tmp_path, models))
        assert names(tmp_path / "repository") == []


def test_models_that_left_the_fleet_are_reported_and_only_pruned_when_asked(tmp_path, models):
    build_fleet(shop(tmp_path, models))
    del models["whole"]
    (tmp_path / "repository" / "foreign").mkdir()
    report = build_fleet(shop(tmp_path, models))
    assert (report.stale, report.pruned) == (("whole",), ())
    assert (tmp_path / "repository" / "whole").is_dir()
    report = build_fleet(shop(tmp_path, models, prune=True))
    assert (report.stale, report.pruned) == ((), ("whole",))
    assert names(tmp_path / "repository") == ["first", "foreign", "manifest.json", "second"]


def test_nothing_but_the_repository_and_the_state_is_left(tmp_path, models):
    build_fleet(shop(tmp_path, models))
    assert set(names(tmp_path)) - {"state"} == {"first", "repository", "second"}


def test_a_bad_joint_of_an_ensemble_is_told(tmp_path, models):
    models["whole"] = ensemble("first", outputs=["q"])
    report = build_fleet(shop(tmp_path, models))
    assert "no step gives its output 'q'" in str(report.failed[0].error)


def test_an_unknown_exporter_is_told_with_a_guess(tmp_path):
    models = {"m": torch_model("linear", export={"exporter": "onxx"})}
    report = build_fleet(shop(tmp_path, models))
    assert "Did you mean 'onnx'" in str(report.failed[0].error)


class Fetched(AssembledSource):
    """A source that is on this machine only after it has been built once."""

    here = False

    def state(self, spec, context, digest):
        return {"commit": "c0ffee"} if Fetched.here else None

    def assemble(self, spec, context, folder):
        Fetched.here = True
        (folder / "model.py").write_text("x")
        return product(backend="python")


def test_what_had_to_be_fetched_is_known_the_next_time(tmp_path, models, monkeypatch):
    monkeypatch.setattr(workshop, "lookup", lambda group, kind: Fetched)
    monkeypatch.setattr(Fetched, "here", False)
    only = {"first": models["first"]}
    assert statuses(build_fleet(shop(tmp_path, only))) == {"first": "built"}
    assert statuses(build_fleet(shop(tmp_path, only))) == {"first": "unchanged"}
