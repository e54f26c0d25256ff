from __future__ import annotations

import pytest

from repo_builder.artifacts.contained import check_link, check_links
from tritonfleet.errors import SourceUnavailable


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "file").write_text("x")
    (tmp_path / "secret").write_text("s")
    return tmp_path / "folder"


def test_links_within_the_folder_are_fine(folder):
    (folder / "sub" / "link").symlink_to("../file")
    (folder / "whole").symlink_to(folder / "sub")
    check_links("m", folder)


@pytest.mark.parametrize("target", ["../secret", "../../secret", "/etc", "../folder2"])
def test_a_link_that_leads_out_is_refused_with_its_target(folder, target):
    (folder / "link").symlink_to(target)
    with pytest.raises(SourceUnavailable, match="folder/link is a symbolic link that leads out of"):
        check_links("m", folder)


def test_a_link_to_a_link_that_leads_out_is_refused(folder):
    (folder / "a").symlink_to("../secret")
    (folder / "b").symlink_to("a")
    with pytest.raises(SourceUnavailable, match="leads out"):
        check_link("m", folder / "b", folder)


def test_the_folder_itself_may_be_reached_by_a_link(folder, tmp_path):
    (tmp_path / "alias").symlink_to(folder)
    (folder / "link").symlink_to("file")
    check_links("m", tmp_path / "alias")


def test_a_snapshot_of_the_hub_s_cache_may_link_to_its_blobs(tmp_path):
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "c0ffee"
    blobs = tmp_path / "models--org--tiny" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1234").write_text("x")
    (snapshot / "tokenizer.json").symlink_to("../../blobs/1234")
    check_links("m", snapshot)
    (snapshot / "other").symlink_to("../../../x")
    with pytest.raises(SourceUnavailable, match="leads out"):
        check_links("m", snapshot)
