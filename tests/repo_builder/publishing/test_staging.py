from __future__ import annotations

import subprocess
import sys

import pytest

from repo_builder.publishing import staging
from repo_builder.publishing.staging import open_staging
from tests.repo_builder.builders import names
from tritonfleet.errors import PublishFailed

HOLD = """
import sys
from pathlib import Path
from repo_builder.publishing.staging import open_staging
with open_staging(Path(sys.argv[1])) as folder:
    (folder / "left").write_text("behind")
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


@pytest.fixture
def other_build(repository):
    """Another process that is building the same repository."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(repository)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "locked\n"
    with process:
        yield process
        process.kill()


def test_staging_lies_beside_the_repository_and_leaves_nothing(repository, tmp_path):
    with open_staging(repository) as folder:
        assert folder.parent == tmp_path
        (folder / "m.model").mkdir()
        assert list(repository.iterdir()) == []
    assert names(tmp_path) == ["repository"]


def test_nothing_is_left_after_a_failure_either(repository, tmp_path):
    with pytest.raises(KeyboardInterrupt), open_staging(repository) as folder:
        (folder / "file").write_text("x")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["repository"]


def test_two_builds_of_one_repository_do_not_mix(repository, other_build):
    with (
        pytest.raises(PublishFailed, match=f"running, process {other_build.pid}"),
        open_staging(repository),
    ):
        pytest.fail("the lock was given twice")


def test_builds_of_other_repositories_run_beside(repository, other_build, tmp_path):
    with open_staging(tmp_path / "another") as folder:
        assert folder.is_dir()


def test_what_a_dead_build_left_is_cleared_away(repository, other_build):
    other_build.kill()
    other_build.wait()
    stale = repository.with_name(".repository.staging") / "left"
    assert stale.exists()
    with open_staging(repository) as folder:
        assert names(folder) == []


def test_a_link_to_the_repository_is_the_repository(repository, tmp_path):
    (tmp_path / "real").mkdir()
    repository.symlink_to(tmp_path / "real")
    with open_staging(repository) as folder:
        assert folder == tmp_path / ".real.staging"


def test_a_repository_on_another_file_system_is_refused_before_any_work(repository, monkeypatch):
    class Elsewhere:
        st_dev = -1

    real = type(repository).stat

    def stat(path, **options):
        return Elsewhere() if path == repository else real(path, **options)

    monkeypatch.setattr(type(repository), "stat", stat)
    with pytest.raises(PublishFailed, match="mount point"):
        staging._check_same_file_system(repository, repository.parent)


def test_a_file_in_the_way_is_told(repository):
    repository.write_text("not a folder")
    with pytest.raises(PublishFailed, match="repository"), open_staging(repository):
        pytest.fail("built into a file")
