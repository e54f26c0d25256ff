from __future__ import annotations

import errno
import hashlib
import itertools
import os
import signal
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from repo_builder.config.render import render_config
from repo_builder.publishing import publish
from repo_builder.publishing.publish import Staged, commit, exchange, remove, stage, stage_files
from repo_builder.publishing.staging import open_staging
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


START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Press:
    """Publishes one model again and again."""

    def __init__(self, repository: Path, staging: Path) -> None:
        self.repository, self.staging, self.count = repository, staging, 0

    def turn(self, text: str | None) -> tuple[Path, Path | None]:
        """A staging folder of its own, and a version in it."""
        self.count += 1
        folder = self.staging / f"turn{self.count}"
        folder.mkdir()
        if text is None:
            return folder, None
        (folder / "version").mkdir()
        (folder / "version" / "model.onnx").write_text(text)
        return folder, folder / "version"

    def stage(self, text: str | None = "weights", made=None, at=0, **options) -> Staged:
        folder, contents = self.turn(text)
        config = render_config("m", made or product(), serving(**options))
        now = START + timedelta(seconds=at)
        return stage("m", contents, config, serving(**options), self.repository, folder, now=now)

    def stage_files(self, text: str, beside, link: Path | None = None) -> Staged:
        folder, contents = self.turn(text)
        if link is not None:
            (contents / "link").symlink_to(link)
        beside = {"config.pbtxt": 'name: "m"', **beside}
        return stage_files("m", contents, beside, 2, self.repository, folder)

    def publish(self, text: str | None = "weights", made=None, at=None, **options) -> Staged:
        staged = self.stage(text, made, at or 0, **options)
        commit(staged, entry(staged.version, at), self.repository, sha256)
        return staged

    @property
    def versions(self) -> tuple[int, ...]:
        return model_versions(self.repository / "m")


@pytest.fixture
def press(repository, staging):
    return Press(repository, staging)


def entry(version: int, at: float | None = None) -> ManifestEntry:
    built_at = "" if at is None else (START + timedelta(seconds=at)).isoformat()
    return ManifestEntry(
        fingerprint="f", version=version, backend="onnxruntime", source={}, digest="d",
        artifact_bytes=1, built_at=built_at,
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


def test_versions_that_take_something_else_stay_while_only_the_newest_is_served(press):
    press.publish()
    press.publish(made=product("x FP32 batch 9"))
    assert press.versions == (1, 2)


@pytest.mark.parametrize("policy", [{"all": True}, {"latest": 2}], ids=["all", "latest 2"])
def test_versions_that_take_something_else_go_where_they_would_be_served_by_the_new_configuration(
    press, policy
):
    press.publish(version_policy=policy)
    press.publish(made=product("x FP32 batch 9"), version_policy=policy)
    assert press.versions == (2,)


def test_each_version_is_compared_by_the_configuration_of_its_own_time(press):
    press.publish(keep_versions=9)
    press.publish(made=product("x FP32 batch 9"), keep_versions=9)
    press.publish(keep_versions=9, version_policy={"all": True})
    assert press.versions == (1, 3)


def test_the_version_that_was_served_until_now_outlives_the_build_that_replaces_it(press):
    for _ in range(3):
        press.publish(keep_versions=1)
    assert press.versions == (2, 3)


def test_versions_replaced_a_moment_ago_stay_however_few_are_to_be_kept(press):
    for second in range(4):
        press.publish(keep_versions=1, at=second)
    assert press.versions == (1, 2, 3, 4)
    press.publish(keep_versions=1, at=3600)
    assert press.versions == (4, 5)


def test_the_manifest_has_the_digest_of_every_file_of_every_version(press, repository):
    press.publish("one", product(labels={"y": ("a", "b", "c")}))
    press.publish("two", product(labels={"y": ("a", "b", "d")}))
    recorded = read_manifest(repository).models["m"].files
    present = files(repository / "m").items()
    assert recorded == {name: hashlib.sha256(content).hexdigest() for name, content in present}
    assert set(recorded) == {"1/model.onnx", "2/model.onnx", "config.pbtxt", "y_labels.txt"}


def test_files_that_were_linked_are_not_read_again(press, repository):
    press.publish("one")
    staged, read = press.stage("two"), []
    commit(staged, entry(2), repository, lambda path: read.append(path.name) or "digest")
    assert sorted(read) == ["config.pbtxt", "model.onnx"]
    digests = read_manifest(repository).models["m"].files
    assert digests["1/model.onnx"] == hashlib.sha256(b"one").hexdigest()


def test_earlier_versions_keep_their_entry_and_the_files_beside_them(press, repository):
    press.publish("one", product(labels={"y": ("a", "b", "c")}))
    config = (repository / "m/config.pbtxt").read_bytes()
    press.publish("two", instance_group=[{"count": 3}])
    press.publish("three", keep_versions=3)
    earlier = read_manifest(repository).models["m"].earlier
    assert sorted(earlier) == [1, 2]
    assert earlier[1].contents() == {"config.pbtxt": config, "y_labels.txt": b"a\nb\nc\n"}
    assert earlier[1].entry["version"] == 1
    assert not {"earlier", "files"} & set(earlier[1].entry)


def test_versions_that_left_are_not_remembered(press, repository):
    for _ in range(4):
        press.publish(keep_versions=2)
    assert sorted(read_manifest(repository).models["m"].earlier) == [3]


def test_files_in_folders_beside_the_versions_are_published_with_the_model(press, repository):
    beside = {"configs/a100.pbtxt": 'name: "m"', "warmup/x.bin": b"\x00\xff"}
    staged = press.stage_files("one", beside)
    commit(staged, entry(1), repository, sha256)
    assert files(repository / "m").keys() >= beside.keys()
    assert (repository / "m/warmup/x.bin").read_bytes() == b"\x00\xff"


def test_files_that_the_replaced_configuration_names_stay_for_one_more_publish(press, repository):
    press.publish("one", product(labels={"y": ("a", "b", "c")}))
    press.publish("two")
    assert "y_labels.txt" in names(repository / "m")
    assert "y_labels.txt" in read_manifest(repository).models["m"].files
    press.publish("three")
    assert "y_labels.txt" not in names(repository / "m")


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "configs/../../escaped"])
def test_a_file_that_would_leave_the_models_folder_is_refused(press, repository, name):
    with pytest.raises(PublishFailed, match="outside the model's folder"):
        press.stage_files("one", {name: "text"})
    assert files(repository) == {}


@pytest.mark.parametrize("name", ["../m", "a/b", "..", ""])
def test_a_model_whose_name_would_leave_the_repository_is_refused(repository, staging, name):
    config = {"config.pbtxt": 'name: "m"'}
    with pytest.raises(PublishFailed, match="is no folder's name"):
        stage_files(name, None, config, 1, repository, staging)


@pytest.mark.parametrize("where", ["m", "m/1", "m/1/model.onnx"])
def test_links_in_the_published_model_are_refused_and_what_they_lead_to_is_left(
    press, repository, tmp_path, where
):
    press.publish("one")
    kept = tmp_path / "elsewhere"
    (repository / where).rename(kept)
    (repository / where).symlink_to(kept)
    with pytest.raises(PublishFailed, match=r"is a symbolic link, to .*elsewhere"):
        press.publish("two")
    assert kept.exists()


def test_a_link_in_the_new_version_is_refused(press, tmp_path, repository):
    (tmp_path / "secret").write_text("not for publication")
    with pytest.raises(PublishFailed, match="links are not followed"):
        press.stage_files("one", {}, link=tmp_path / "secret")
    assert files(repository) == {}


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
        commit(staged, entry(2), repository, sha256)
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


# Everything by which a publication touches the disk; each call is a place to be stopped at.
SYSTEM_CALLS = (
    (os, "link"), (os, "fsync"), (os, "open"), (os, "mkdir"), (publish, "exchange"),
    (publish, "write_manifest"), (Path, "rename"), (Path, "mkdir"), (Path, "write_bytes"),
)  # fmt: skip


class Tripwire:
    """Fails at the n-th of all system calls."""

    def __init__(self, monkeypatch, error: BaseException, at: int) -> None:
        self.error, self.left = error, at
        for owner, name in SYSTEM_CALLS:
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name)))

    def wrapped(self, real):
        def call(*arguments, **options):
            self.left -= 1
            if self.left == 0:
                raise self.error
            return real(*arguments, **options)

        return call


@pytest.mark.parametrize("error", [no_space(), KeyboardInterrupt()], ids=["full disk", "ctrl-c"])
def test_wherever_a_publication_is_stopped_the_repository_stays_as_it_was(tmp_path, error):
    stops = 0
    for step in itertools.count(1):
        repository = tmp_path / str(step) / "repository"
        with open_staging(repository) as staging, pytest.MonkeyPatch.context() as patch:
            press = Press(repository, staging)
            press.publish("one", product(labels={"y": ("a", "b", "c")}))
            before = files(repository)
            folder, contents = press.turn("two")
            config = render_config("m", product(labels={"y": ("a", "b", "d")}), serving())
            wire = Tripwire(patch, error, at=step)
            try:
                staged = stage("m", contents, config, serving(), repository, folder)
                commit(staged, entry(2), repository, sha256)
            except (PublishFailed, KeyboardInterrupt):
                stops += 1
                assert files(repository) == before
        assert names(tmp_path / str(step)) == ["repository"]
        if wire.left > 0:  # it came to its end before
            break
    assert press.versions == (1, 2)
    assert stops > 15
