"""What of a staged model a scratch server gets to see."""

from __future__ import annotations

import errno
import os

import pytest

from repo_builder.scratch.folders import lay_out, remove, served_versions
from tests.repo_builder.builders import files
from tests.repo_builder.scratch.models import configure, order
from tests.tiny import write_adder
from tritonfleet.server.layout import model_versions
from tritonfleet.server.pbtxt import parse_config, read_config


@pytest.fixture
def staged(tmp_path):
    """Versions 1, 2 and 3 of one model, with a file of labels."""
    folder = tmp_path / "staged"
    write_adder(folder, "adder")
    for version in (2, 3):
        (folder / "adder" / str(version)).mkdir()
        (folder / "adder" / str(version) / "model.onnx").write_bytes(b"later")
    (folder / "adder" / "labels.txt").write_text("a\nb\n")
    return folder


@pytest.mark.parametrize(
    ("policy", "served", "shown"),
    [
        ("", (3,), (3,)),
        ("version_policy { latest { num_versions: 2 } }", (2, 3), (2, 3)),
        ("version_policy { all {} }", (1, 2, 3), (1, 2, 3)),
        ("version_policy { specific { versions: [ 1, 3 ] } }", (1, 3), (1, 3)),
        ("version_policy { specific { versions: [ 1, 9 ] } }", (1,), (1, 3)),
    ],
)
def test_the_new_version_and_those_that_are_served_are_seen(
    staged, tmp_path, policy, served, shown
):
    configure(staged, "adder", policy)
    before, scratch = files(staged), tmp_path / "scratch"
    asked = order(staged, "adder", version=3)
    assert served_versions(asked.config, (1, 2, 3)) == served
    assert lay_out(asked, scratch) == ("adder",)
    assert model_versions(scratch / "adder") == shown
    assert 3 in served_versions(read_config(scratch, "adder"), shown)
    assert (scratch / "adder" / "labels.txt").exists()
    assert files(staged) == before


def test_a_configuration_that_serves_the_new_version_is_taken_as_it_is(staged, tmp_path):
    lay_out(order(staged, "adder", version=3), tmp_path / "scratch")
    copied = (tmp_path / "scratch" / "adder" / "config.pbtxt").read_text()
    assert copied == (staged / "adder" / "config.pbtxt").read_text()


def test_what_a_model_leaves_beside_its_files_stays_in_the_scratch_repository(staged, tmp_path):
    lay_out(order(staged, "adder", version=3), tmp_path / "scratch")
    (tmp_path / "scratch" / "adder" / "3" / "__pycache__").mkdir()
    assert not (staged / "adder" / "3" / "__pycache__").exists()


def test_members_come_along_after_the_model(staged, tmp_path):
    write_adder(staged, "other")
    asked = order(staged, "adder", version=3, members={"other": staged / "other"})
    assert lay_out(asked, tmp_path / "scratch") == ("adder", "other")
    assert files(tmp_path / "scratch" / "other") == files(staged / "other")


def test_files_are_copied_where_they_cannot_be_linked(staged, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    lay_out(order(staged, "adder", version=3), tmp_path / "scratch")
    assert (tmp_path / "scratch" / "adder" / "3" / "model.onnx").read_bytes() == b"later"


def test_other_failures_are_not_hidden(staged, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="No space left"):
        lay_out(order(staged, "adder", version=3), tmp_path / "scratch")


def test_a_removed_model_is_gone_and_removing_it_again_is_harmless(staged, tmp_path):
    lay_out(order(staged, "adder", version=3), tmp_path / "scratch")
    for _ in range(2):
        remove("adder", tmp_path / "scratch")
        assert list((tmp_path / "scratch").iterdir()) == []


def test_no_number_of_versions_means_the_newest():
    config = parse_config("m", 'name: "m" version_policy { latest {} }')
    assert served_versions(config, (1, 4)) == (4,)
