from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from repo_builder.publishing.staging import open_staging
from tests.repo_builder.builders import ensemble, names, python_model
from tritonfleet.cli import main

pytestmark = pytest.mark.usefixtures("elsewhere")

# Each of these costs seconds to import, for nothing when nothing is exported.
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "sklearn"}
COUNT_HEAVY = f"""
import sys
from tritonfleet.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
loaded = {HEAVY!r} & set(sys.modules)
assert not loaded, loaded
"""


def write_fleet(folder: Path, models, name: str = "fleet.yaml") -> Path:
    # JSON is YAML.
    servers = [{"name": "local", "capacity": "1GiB"}]
    (folder / name).write_text(json.dumps({"name": "tiny", "servers": servers, "models": models}))
    return folder / name


@pytest.fixture
def models(tmp_path):
    return {
        "echo": python_model(tmp_path, "echo"),
        "whole": ensemble("echo", outputs=["y"]),
        "broken": python_model(tmp_path, "broken", code="class Wrong: ..."),
    }


@pytest.fixture
def good(tmp_path, models):
    del models["broken"]
    return write_fleet(tmp_path, models)


@pytest.fixture
def run(capsys):
    """Runs the command; gives its status, output and errors."""

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["build", "--no-proof", *map(str, arguments)])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return call


def test_a_good_fleet_ends_with_a_table_and_status_zero(run, good):
    status, output, _ = run("-f", good)
    assert status == 0
    assert "2 built in" in output
    assert {line.split()[0] for line in output.splitlines() if "built  " in line} == {
        "echo", "whole"
    }  # fmt: skip


def test_the_repository_is_that_of_the_settings(run, good, tmp_path, monkeypatch):
    run("-f", good)
    assert names(tmp_path / "model_repository") == ["echo", "manifest.json", "whole"]
    monkeypatch.setenv("TRITONFLEET_REPOSITORY", "from_environment")
    run("-f", good)
    run("-f", good, "--repository", "from_flag")
    assert (tmp_path / "from_environment" / "echo").is_dir()
    assert (tmp_path / "from_flag" / "echo").is_dir()


def test_a_failed_model_is_told_without_a_trace_and_the_status_is_one(run, tmp_path, models):
    status, output, errors = run("-f", write_fleet(tmp_path, models))
    assert status == 1
    assert "2 built, 1 failed" in output
    assert "error: broken: " in errors and "defines no TritonPythonModel" in errors
    assert "Traceback" not in errors


def test_json_is_one_document_and_nothing_else(run, tmp_path, models):
    status, output, errors = run("-f", write_fleet(tmp_path, models), "--json")
    document = json.loads(output)
    assert (status, errors) == (1, "")
    assert (document["fleet"], document["ok"], document["stale"]) == ("tiny", False, [])
    found = {model["model"]: model for model in document["models"]}
    assert found["echo"]["status"] == "built" and found["echo"]["version"] == 1
    assert found["broken"]["error_type"] == "InvalidModelConfig"
    assert "defines no TritonPythonModel" in found["broken"]["error"]


def test_an_unknown_model_is_bad_input_with_a_guess(run, good):
    status, output, errors = run("-f", good, "ehco", "--json")
    assert (status, output) == (2, "")
    assert "Did you mean 'echo'" in errors


def test_a_fleet_file_with_mistakes_is_bad_input(run, tmp_path):
    (tmp_path / "bad.yaml").write_text("servers: []\nmodel: {}\n")
    status, _, errors = run("-f", "bad.yaml")
    assert status == 2
    assert "bad.yaml has" in errors and "Traceback" not in errors


def test_no_fleet_file_at_all_is_bad_input(run):
    status, _, errors = run()
    assert status == 2
    assert "pass --fleet, or set TRITONFLEET_FLEET" in errors


def test_the_fleet_file_may_come_from_the_environment_or_lie_where_the_demo_lies(
    run, good, tmp_path, monkeypatch
):
    (tmp_path / "triton_configs").mkdir()
    (tmp_path / "triton_configs" / "demo.yaml").write_text("servers: []")
    monkeypatch.setenv("TRITONFLEET_FLEET", str(good))
    assert run()[0] == 0
    monkeypatch.delenv("TRITONFLEET_FLEET")
    status, _, errors = run()
    assert status == 2 and "demo.yaml" in errors


def test_a_named_ensemble_brings_its_members(run, tmp_path, models):
    status, output, _ = run("-f", write_fleet(tmp_path, models), "--json", "whole")
    assert status == 0
    assert [model["model"] for model in json.loads(output)["models"]] == ["echo", "whole"]


def test_stale_models_are_shown_and_pruned_only_when_asked(run, good, tmp_path, models):
    run("-f", good)
    del models["whole"]
    write_fleet(tmp_path, models)
    _, output, _ = run("-f", good)
    assert "stale" in output and "--prune removes them" in output
    status, output, _ = run("-f", good, "--prune")
    assert status == 0 and "removed whole" in output
    assert names(tmp_path / "model_repository") == ["echo", "manifest.json"]


def test_a_second_build_at_the_same_time_is_refused(run, good, tmp_path):
    with open_staging(tmp_path / "model_repository"):
        status, _, errors = run("-f", good)
    assert status == 1
    assert "another build" in errors


def test_ctrl_c_is_status_130(run, good, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("repo_builder.pipeline._Build.run", interrupted)
    status, _, errors = run("-f", good)
    assert status == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize("arguments", [["--help"], ["-f", "fleet.yaml"]])
def test_without_an_export_nothing_heavy_is_imported(run, good, arguments):
    run("-f", good)
    subprocess.run(
        [sys.executable, "-c", COUNT_HEAVY, "build", "--no-proof", *arguments], check=True
    )
