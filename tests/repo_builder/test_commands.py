from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from repo_builder import commands
from repo_builder.pipeline import build_fleet
from repo_builder.publishing.verify import verify
from tests.repo_builder.builders import files, names, python_model, shop
from tests.repo_builder.reports.entries import manifest
from tests.repo_builder.test_cli import HEAVY, write_fleet
from tritonfleet.errors import ModelNotFound, PublishFailed
from tritonfleet.server.layout import write_manifest

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def repository(tmp_path):
    """A model in two versions."""
    for code in ("class TritonPythonModel: ...\n", "class TritonPythonModel:\n    bad = True\n"):
        work = shop(tmp_path, {"echo": python_model(tmp_path, "echo", code)}, proof=False)
        assert not build_fleet(work).failed
    return work.repository


@pytest.fixture
def fleet(tmp_path, repository):
    return write_fleet(tmp_path, {"echo": python_model(tmp_path, "echo", "class Changed: ...")})


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def done(command, *arguments):
    result = run(command, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_diff_says_what_would_change_and_why(fleet, repository):
    text = done(commands.diff, "-f", fleet, "--repository", repository)
    assert "echo would be built anew (files of the source changed)" in text
    assert text.endswith("0 of 1 models unchanged\n")


def test_diff_shows_configurations_line_by_line(fleet, repository, tmp_path):
    model = python_model(tmp_path, "echo", "class TritonPythonModel:\n    bad = True\n")
    model["serving"] = {"instance_group": [{"count": 7}]}
    write_fleet(tmp_path, {"echo": model})
    text = done(commands.diff, "-f", fleet, "--repository", repository)
    assert "    --- echo/config.pbtxt" in text
    assert "7" in text


def test_diff_for_machines(fleet, repository):
    (change,) = json.loads(done(commands.diff, "-f", fleet, "--repository", repository, "--json"))
    assert (change["model"], change["action"]) == ("echo", "artifact")


def test_show_tells_of_one_model(repository):
    text = done(commands.show, "echo", "--repository", repository)
    assert "version 2, python" in text
    assert "x FP32[batch, 4]" in text
    assert "no server has loaded it" in text


def test_show_for_machines_is_the_manifests_entry(repository):
    said = json.loads(done(commands.show, "echo", "--repository", repository, "--json"))
    assert (said["model"], said["version"]) == ("echo", 2)


def test_show_has_a_column_for_every_batch_and_every_reason(tmp_path):
    (tmp_path / "many").mkdir()
    write_manifest(tmp_path / "many", manifest())
    text = done(commands.show, "bert", "--repository", tmp_path / "many")
    for said in ("batch 1", "4 ms (4.00×)", "fp16: no <kernel> | for it", "published", "newest"):
        assert said in text
    assert max(map(len, text.splitlines())) <= 140


def test_show_of_an_unknown_model_guesses(repository):
    error = run(commands.show, "ecco", "--repository", repository).exception
    assert isinstance(error, ModelNotFound)
    assert "Did you mean 'echo'" in str(error)


def test_rollback_publishes_the_version_before_and_says_what_a_server_does(repository):
    text = done(commands.rollback, "echo", "--repository", repository)
    assert "version 1 is published again, as version 3" in text
    assert "tritonfleet unload echo" in text
    assert "bad" not in (repository / "echo/3/model.py").read_text()


def test_rollback_for_machines(repository):
    said = json.loads(done(commands.rollback, "echo", "--repository", repository, "--json"))
    assert (said["replaced"], said["earlier"], said["version"]) == (2, 1, 3)
    assert said["rejected"]


def test_rollback_to_a_version_that_is_not_there_fails(repository):
    result = run(commands.rollback, "echo", "--to", 9, "--repository", repository)
    assert isinstance(result.exception, PublishFailed)


def test_a_build_after_a_rollback_leaves_the_model_alone_until_it_changes(repository, tmp_path):
    done(commands.rollback, "echo", "--repository", repository)
    same = {"echo": python_model(tmp_path, "echo", "class TritonPythonModel:\n    bad = True\n")}
    before = files(repository)
    (result,) = build_fleet(shop(tmp_path, same, proof=False)).results
    assert result.status == "rejected"
    assert files(repository) == before
    better = {"echo": python_model(tmp_path, "echo", "class TritonPythonModel:\n    ok = True\n")}
    (result,) = build_fleet(shop(tmp_path, better, proof=False)).results
    assert (result.status, result.version) == ("built", 4)


def test_verify_of_an_intact_repository_ends_well(repository):
    assert "identical to the manifest\n" in done(commands.verify, repository)
    assert done(commands.verify, repository, "--against", repository).endswith(
        f"identical to the manifest and to {repository}\n"
    )


def test_verify_of_a_damaged_one_ends_with_status_1_and_a_line_for_each(repository):
    (repository / "echo/1/model.py").unlink()
    (repository / "echo/2/extra").write_text("")
    result = run(commands.verify, repository)
    assert result.exit_code == 1
    assert "echo/1/model.py: in the manifest, but not on disk" in result.output
    assert "2 differences" in result.output
    said = json.loads(run(commands.verify, repository, "--json").output)
    assert (said["ok"], len(said["differences"])) == (False, 2)


def test_verify_names_the_folder_that_is_not_there(tmp_path):
    error = run(commands.verify, tmp_path / "nowhere").exception
    assert isinstance(error, PublishFailed)


def test_builds_leave_a_repository_that_verifies(repository):
    assert verify(repository).differences == ()


@pytest.mark.build
def test_report_writes_both_pages(repository, tmp_path):
    text = done(commands.report, "-o", tmp_path / "out", "--repository", repository)
    assert text.splitlines() == [str(tmp_path / "out" / name) for name in
                                 ("report.html", "report.md")]  # fmt: skip
    assert names(tmp_path / "out") == ["figures", "report.html", "report.md"]
    assert "echo" in (tmp_path / "out/report.md").read_text()


def test_the_fleet_files_settings_name_the_repository(repository, tmp_path):
    file = write_fleet(tmp_path, {"echo": python_model(tmp_path, "echo")})
    document = {**json.loads(file.read_text()), "settings": {"repository": str(repository)}}
    file.write_text(json.dumps(document))
    assert "version 2" in done(commands.show, "echo", "-f", file)


@pytest.mark.parametrize("command", ["diff", "show", "rollback", "verify", "report"])
def test_help_loads_nothing_heavy(command):
    code = (
        f"import sys\nfrom repo_builder import commands\n"
        f"try:\n    commands.{command}(['--help'])\nexcept SystemExit as end:\n"
        f"    assert not end.code\n"
        f"loaded = {HEAVY | {'matplotlib', 'jinja2'}!r} & set(sys.modules)\n"
        f"assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
