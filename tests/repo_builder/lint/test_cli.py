from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from repo_builder.lint.cli import lint
from tests.repo_builder.lint.builders import change, onnx_model

pytestmark = pytest.mark.usefixtures("elsewhere")


def run(*arguments: object):
    return CliRunner().invoke(lint, [str(argument) for argument in arguments])


@pytest.fixture
def repository(tmp_path):
    """One error, one warning and one thing to know."""
    path = tmp_path / "repository"
    model = onnx_model(path, more="response_cache { enable: true }")
    change(model, "instance_group [{ count: 1 }]", "")
    change(model, "dims: [4] }]\noutput", "dims: [5] }]\noutput")
    return path


def test_nothing_found_is_said_so(tmp_path):
    onnx_model(tmp_path / "repository")
    result = run("repository")
    assert (result.exit_code, result.output) == (0, "repository: 1 model, nothing found\n")


def test_findings_are_told_by_model_with_their_fix(repository):
    result = run(repository)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "m"
    assert lines[1].startswith("  error   wrong-shape: input 'x' is declared [5]")
    assert lines[2].strip() == "Write dims: [4]."
    assert lines[-1].endswith("1 model, 1 error, 1 warning, 1 info")


def test_json_is_one_document(repository):
    document = json.loads(run(repository, "--json").stdout)
    assert document["counts"] == {"error": 1, "warning": 1, "info": 1}
    assert not document["ok"]
    assert document["findings"][0] == {
        "rule": "wrong-shape",
        "severity": "error",
        "model": "m",
        "place": "input 'x'",
        "message": "input 'x' is declared [5] and is [4] behind its batch dimension",
        "fix": "Write dims: [4].",
    }


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (("--ignore", "wrong-shape"), 0),
        (("--ignore", "wrong-shape", "--strict"), 1),
        (("--ignore", "wrong-shape", "--ignore", "instance-count", "--strict"), 0),
        (("--rule", "cache-stale"), 0),
        (("--rule", "wrong-shape"), 1),
    ],
)
def test_rules_are_chosen_and_silenced(repository, options, status):
    assert run(repository, *options).exit_code == status


def test_a_rule_that_there_is_not_is_told_with_the_one_that_was_meant(repository):
    result = run(repository, "--ignore", "wrong-shap")
    assert result.exit_code == 2
    assert "Did you mean 'wrong-shape'?" in result.output


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--server-resources", "gpu"), "is not NAME=COUNT"),
        (("--server-resources", "gpu=x"), "is not NAME=COUNT"),
        (("--triton-release", "2.51"), "is no release of Triton"),
        (("--triton-release", "20.01"), "is older than"),
        (("--gpus", "-1"), "--gpus"),
    ],
)
def test_a_wrong_option_is_told(repository, options, cause):
    result = run(repository, *options)
    assert result.exit_code == 2
    assert cause in result.output


def test_what_is_told_of_the_server_counts(tmp_path):
    limited = 'rate_limiter { resources [{ name: "gpu" count: 2 }] }'
    model = onnx_model(tmp_path / "repository")
    change(model, "{ count: 1 }", f"{{ count: 1 kind: KIND_GPU {limited} }}")
    assert run("repository", "--gpus", 1, "--server-resources", "gpu=2").exit_code == 0
    assert run("repository", "--gpus", 0).exit_code == 1
    assert run("repository", "--server-resources", "gpu=1").exit_code == 1
    assert run("repository", "--triton-release", "23.11").exit_code == 1


def test_without_a_repository_the_settings_one_is_meant(tmp_path, monkeypatch):
    assert "there is no repository model_repository" in run().output
    onnx_model(tmp_path / "elsewhere")
    monkeypatch.setenv("TRITONFLEET_REPOSITORY", "elsewhere")
    assert run().output == "elsewhere: 1 model, nothing found\n"
    servers = '[{"name": "local", "capacity": "1GiB"}]'
    model = '{"source": {"kind": "onnx", "path": "x.onnx"}}'
    (tmp_path / "fleet.yaml").write_text(
        f'{{"servers": {servers}, "models": {{"m": {model}}}, "settings": {{"repository": "r"}}}}'
    )
    monkeypatch.delenv("TRITONFLEET_REPOSITORY")
    onnx_model(tmp_path / "r")
    assert run("--fleet", "fleet.yaml").output == "r: 1 model, nothing found\n"
