from __future__ import annotations

import pytest
from click.testing import CliRunner

from repo_builder.importing.cli import import_repository
from tests.repo_builder.lint.builders import onnx_model, python_model
from tritonfleet.spec import load_fleet


def run(*arguments: str):
    return CliRunner().invoke(import_repository, arguments)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx_model(tmp_path / "my models", "a")
    python_model(tmp_path / "my models", "b")
    (tmp_path / "my models" / "notes").mkdir()


def test_a_fleet_file_is_written_that_loads(tmp_path):
    result = run("my models", "--capacity", "3GiB")
    assert result.exit_code == 0, result.output
    assert result.output.endswith("fleet.yaml: 2 models, 1 left out\n")
    fleet = load_fleet(tmp_path / "fleet.yaml")
    assert (fleet.name, fleet.servers[0].capacity) == ("mymodels", 3 << 30)
    assert fleet.models["a"].source.path == "my models/a/1/model.onnx"
    head = (tmp_path / "fleet.yaml").read_text().splitlines()[0]
    assert head.startswith("# yaml-language-server: $schema=")


def test_no_weights_are_copied(tmp_path):
    run("my models", "-o", "out.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my models", "out.yaml"]


def test_a_file_that_is_there_is_only_replaced_when_asked(tmp_path):
    (tmp_path / "fleet.yaml").write_text("mine")
    result = run("my models")
    assert result.exit_code == 2 and "--force" in result.output
    assert (tmp_path / "fleet.yaml").read_text() == "mine"
    assert run("my models", "--force").exit_code == 0
    assert load_fleet(tmp_path / "fleet.yaml").models


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("absent",), "does not exist"),
        (("my models", "--capacity", "much"), "is no size"),
        (("my models", "-o", "absent/fleet.yaml"), "there is no folder"),
    ],
)
def test_a_wrong_argument_is_told(arguments, cause):
    result = run(*arguments)
    assert result.exit_code == 2
    assert cause in result.output


def test_a_repository_with_nothing_to_import_writes_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("empty")
    assert result.exit_code == 1
    assert "nothing to import" in result.output
    assert not (tmp_path / "fleet.yaml").exists()
