from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from repo_builder import publish
from repo_builder.config import render_config
from repo_builder.publish import Staged, commit, exchange, remove, stage
from repo_builder.staging import open_staging
from tests.repo_builder.builders import files, names, product, serving
from tritonfleet.errors import InvalidModelConfig, PublishFailed
from tritonfleet.server.layout import ManifestEntry, model_versions, read_manifest


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


@pytest.fixture
def staging(repository):
    with open_staging(repository) as folder:
        yield folder


class Press:
    """Publishes one model again and again."""

    def __init__(self, repository: Path, staging: Path) -> None:
        self.repository, self.staging, self.count = repository, staging, 0

    def stage(self, text: str | None = "weights", made=None, **options) -> Staged:
        self.count += 1
        folder = self.staging / f"turn{self.count}"
        folder.mkdir()
        contents = None
        if text is not None:
            contents = folder / "version"
            contents.mkdir()
            (contents / "model.onnx").write_text(text)
        config = render_config("m", made or product(), serving(**options))
        return stage("m", contents, config, serving(**options), self.repository, folder)

    def publish(self, text: str | None = "weights", made=None, **options) -> Staged:
        staged = self.stage(text, made, **options)
        commit(staged, entry(staged.version), self.repository)
        return staged

    @property
    def versions(self) -> tuple[int, ...]:
        return model_versions(self.repository / "m")


@pytest.fixture
def press(repository, staging):
    return Press(repository, staging)


def entry(version: int) -> ManifestEntry:
    return ManifestEntry(
        fingerprint="f", version=version, backend="onnxruntime", source={}, digest="d",
        artifact_bytes=1,
    )  # fmt: skip


def test_a_first_model_is_version_one_with_configuration_labels_and_manifest(press, repository):
    press.publish("weights", product(labels={"y": ("a", "b", "c")}))
    assert sorted(files(repository)) == [
        "m/1/model.onnx", "m/config.pbtxt", "m/y_labels.txt", "manifest.json"
    ]  # fmt: skip
    assert read_manifest(repository).models["m"].version == 1


def test_the_next_version_is_one_above_the_highest_there(press, repository):
    press.publish()
    (repository / "m" / "7").mkdir()
    press.publish()
    assert press.versions == (7, 8)


def test_as_many_versions_stay_as_asked_sharing_their_bytes(press, repository):
    for text in ("one", "two", "three"):
        press.publish(text, keep_versions=2)
    assert press.versions == (2, 3)
    before = (repository / "m/2/model.onnx").stat().st_ino
    press.publish("four", keep_versions=3)
    assert press.versions == (2, 3, 4)
    assert (repository / "m/2/model.onnx").stat().st_ino == before
    assert (repository / "m/2/model.onnx").read_text() == "two"


def test_versions_that_the_policy_names_stay_too(press):
    options = {"keep_versions": 1, "version_policy": {"specific": [1]}}
    for _ in range(3):
        press.publish(**options)
    assert press.versions == (1, 3)


def test_a_policy_that_would_serve_nothing_is_refused(press, repository):
    with pytest.raises(InvalidModelConfig, match=r"asks for \[4\], there will be \[1\]"):
        press.publish(version_policy={"specific": [4]})
    assert files(repository) == {}


def test_versions_that_take_something_else_go_since_the_new_configuration_is_not_theirs(press):
    press.publish()
    press.publish(made=product("x FP32 batch 9"))
    assert press.versions == (2,)


def test_a_new_configuration_keeps_the_version_it_is_for(press, repository):
    press.publish("one")
    inode = (repository / "m/1/model.onnx").stat().st_ino
    press.publish(None, instance_group=[{"count": 3}])
    assert press.versions == (1,)
    assert (repository / "m/1/model.onnx").stat().st_ino == inode
    assert "count: 3" in (repository / "m/config.pbtxt").read_text()


def test_nothing_in_the_repository_but_models_and_the_manifest(press, repository):
    press.publish()
    assert names(repository) == ["m", "manifest.json"]


class Exploding:
    """A function that fails on its n-th call."""

    def __init__(self, real, error: BaseException, at: int = 1) -> None:
        self.real, self.error, self.left = real, error, at

    def __call__(self, *arguments, **options):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.real(*arguments, **options)


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("at", [1, 3, 6, 7])
def test_a_full_disk_while_staging_leaves_the_repository_as_it_was(
    press, repository, monkeypatch, at
):
    press.publish("one")
    before = files(repository)
    monkeypatch.setattr(os, "fsync", Exploding(os.fsync, no_space(), at))
    with pytest.raises(PublishFailed, match="Free some disk space"):
        press.publish("two", product(labels={"y": ("a", "b", "c")}))
    assert files(repository) == before


@pytest.mark.parametrize("error", [no_space(), KeyboardInterrupt()], ids=["full disk", "ctrl-c"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "next"])
def test_a_manifest_that_cannot_be_written_takes_the_model_back_out(
    press, repository, monkeypatch, first, error
):
    if not first:
        press.publish("one")
    before = files(repository)
    monkeypatch.setattr(publish, "write_manifest", Exploding(None, error))
    with pytest.raises((PublishFailed, KeyboardInterrupt)):
        press.publish("two")
    assert files(repository) == before
    assert not first or not (repository / "m").exists()


def test_without_an_exchange_in_the_kernel_two_renames_do(press, repository, monkeypatch):
    missing = OSError(errno.ENOSYS, "no such call")
    monkeypatch.setattr(publish, "exchange", Exploding(None, missing, at=1))
    press.publish("one")
    press.publish("two")
    assert (repository / "m/2/model.onnx").read_text() == "two"
    assert press.versions == (1, 2)


@pytest.mark.parametrize("interrupted_at", ["second rename", "manifest"])
def test_two_renames_are_undone_as_well(press, repository, monkeypatch, interrupted_at):
    press.publish("one")
    before = files(repository)
    staged = press.stage("two")
    missing = OSError(errno.EINVAL, "not on this file system")
    monkeypatch.setattr(publish, "exchange", Exploding(None, missing))
    if interrupted_at == "manifest":
        monkeypatch.setattr(publish, "write_manifest", Exploding(None, no_space()))
    else:
        rename = Exploding(Path.rename, no_space(), at=2)
        monkeypatch.setattr(Path, "rename", lambda path, target: rename(path, target))
    with pytest.raises(PublishFailed):
        commit(staged, entry(2), repository)
    assert files(repository) == before


def test_any_other_failure_of_the_exchange_is_told_and_not_worked_around(
    press, repository, monkeypatch
):
    press.publish("one")
    before = files(repository)
    denied = OSError(errno.EACCES, "Permission denied", str(repository / "m"))
    monkeypatch.setattr(publish, "exchange", Exploding(None, denied))
    with pytest.raises(PublishFailed, match="Check who owns the repository"):
        press.publish("two")
    assert files(repository) == before


def test_a_ctrl_c_during_the_swap_waits_until_folder_and_manifest_agree(
    press, repository, monkeypatch
):
    press.publish("one")
    real = publish.write_manifest

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        real(*arguments)

    monkeypatch.setattr(publish, "write_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        press.publish("two")
    assert read_manifest(repository).models["m"].version == 2
    assert press.versions == (1, 2)


def test_exchange_swaps_two_folders_in_one_step(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    exchange(tmp_path / "a", tmp_path / "b")
    assert files(tmp_path) == {"a/file": b"b", "b/file": b"a"}


def test_exchange_with_nothing_says_so(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "b")


def test_a_removed_model_leaves_neither_files_nor_entry(press, repository, staging):
    press.publish()
    remove("m", repository, staging)
    assert not (repository / "m").exists()
    assert read_manifest(repository).models == {}


def test_an_entry_whose_files_are_gone_can_be_removed(press, repository, staging):
    press.publish()
    (repository / "m").rename(staging / "elsewhere")
    remove("m", repository, staging)
    assert read_manifest(repository).models == {}


def test_a_removal_that_fails_puts_the_model_back(press, repository, staging, monkeypatch):
    press.publish()
    before = files(repository)
    monkeypatch.setattr(publish, "write_manifest", Exploding(None, no_space()))
    with pytest.raises(PublishFailed):
        remove("m", repository, staging)
    assert files(repository) == before
