"""Build, lint, import, build again: the second repository is the first one."""

from __future__ import annotations

from pathlib import Path

import pytest

from repo_builder.importing.fleet_file import import_models, render
from repo_builder.lint.linter import lint
from repo_builder.pipeline import build_fleet
from repo_builder.workshop import Workshop
from tests.repo_builder.builders import ensemble, python_model, shop
from tests.repo_builder.lint.builders import onnx_model
from tritonfleet.server.pbtxt import read_config
from tritonfleet.spec import FleetSpec, load_fleet

SERVING = {
    "max_batch_size": 4,
    "instance_group": [{"count": 2}],
    "dynamic_batching": {"max_queue_delay_microseconds": 300},
    "parameters": {"words": "3"},
}


def test_what_was_built_has_no_findings_and_comes_back(tmp_path):
    second = {"model": "second", "input_map": {"x": "y"}, "output_map": {"y": "z"}}
    models = {
        "whole": ensemble("first", second, outputs=["z"]),
        "first": {**python_model(tmp_path, "first"), "export": {"proof": "off"}},
        "second": {
            **python_model(tmp_path, "second"),
            "serving": SERVING,
            "export": {"proof": "off"},
        },
    }
    models["whole"]["export"] = {"proof": "off"}
    report = build_fleet(shop(tmp_path, models))
    assert [str(result.error) for result in report.failed] == []
    repository = tmp_path / "repository"
    assert lint(repository)[1] == ()

    fleet = imported(repository)
    again = build(fleet, tmp_path)
    for model in models:
        assert read_config(again, model) == read_config(repository, model)


@pytest.mark.build
def test_a_repository_made_by_hand_is_built_from_its_own_files(tmp_path):
    repository = tmp_path / "repository"
    onnx_model(repository, "first", more="version_policy { latest { num_versions: 1 } }")
    again = build(imported(repository), tmp_path)
    assert read_config(again, "first") == read_config(repository, "first")
    assert lint(again)[1] == ()


def imported(repository: Path) -> FleetSpec:
    """The fleet that an import gives, less the proof in a real server."""
    file = repository.parent / "again.yaml"
    result = import_models(repository, repository.parent)
    file.write_text(render(result, repository, "again", "1GiB"), encoding="utf-8")
    fleet = load_fleet(file)
    export = fleet.defaults.export.model_copy(update={"proof": "off"})
    defaults = fleet.defaults.model_copy(update={"export": export})
    return fleet.model_copy(update={"defaults": defaults})


def build(fleet: FleetSpec, base: Path) -> Path:
    report = build_fleet(Workshop(fleet, base, base / "again", base / "state"))
    assert [str(result.error) for result in report.failed] == []
    return base / "again"
