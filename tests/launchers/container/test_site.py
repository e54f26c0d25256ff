"""What lies on disk for a container's server, and who may read it."""

from __future__ import annotations

import os
import stat

import pytest

from tritonfleet.errors import ContainerFailed, LauncherUnavailable
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.command import Invocation, Ports
from tritonfleet.launchers.container.recipe import User
from tritonfleet.launchers.container.site import Site, can_listen, check_readable

US = User(os.getuid(), os.getgid(), os.getuid(), os.getgid())
STRANGER = User(54321, 54321, 54321, 54321)
UNKNOWN = User(5, 5, None, None)
INVOCATION = Invocation("tritonfleet-abc", Ports(1, 2, 3), "s3cret", None, "10.0.0.1")


@pytest.fixture
def repository(tmp_path):
    version = tmp_path / "repository" / "bert" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"weights")
    (version.parent / "config.pbtxt").write_text("")
    return tmp_path / "repository"


@pytest.fixture
def site(tmp_path, repository):
    site = Site.of(LaunchOptions("gpu0", repository, tmp_path / "state"))
    site.folder.mkdir(parents=True)
    return site


def test_without_a_repository_there_is_nothing_to_start(tmp_path):
    with pytest.raises(LauncherUnavailable, match=r"no model repository .*'tritonfleet build'"):
        Site.of(LaunchOptions("gpu0", tmp_path / "nowhere", tmp_path))


def test_what_an_adopter_needs_comes_back_as_it_was(site):
    site.note(INVOCATION)
    assert site.noted(None, "10.0.0.1") == INVOCATION


def test_the_secret_is_for_nobody_elses_eyes(site):
    site.note(INVOCATION)
    site.note(INVOCATION)
    mode = (site.folder / "container.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", '{"instance": "x"}', '{"ports": {"a": 1}}'])
def test_notes_that_make_no_sense_are_none(site, content):
    (site.folder / "container.json").write_text(content)
    assert site.noted(None, "127.0.0.1") is None


def test_what_is_forgotten_is_gone(site):
    site.note(INVOCATION)
    site.forget()
    site.forget()
    assert site.noted(None, "127.0.0.1") is None


# -- the socket ------------------------------------------------------------------------------


def test_the_socket_is_always_at_the_same_place(site):
    assert site.events_socket() == site.folder / "models" / "events"


def test_a_socket_has_a_short_path_however_long_the_state_directorys_is(tmp_path, repository):
    site = Site.of(LaunchOptions("gpu0", repository, tmp_path / ("x" * 100)))
    site.folder.mkdir(parents=True)
    assert len(os.fsencode(site.events_socket())) <= 107
    assert site.events_socket() == site.events_socket()


async def test_nobody_else_may_enter_the_sockets_folder(site):
    events = await site.listen(site.events_socket(), US)
    assert stat.S_IMODE(events.path.parent.stat().st_mode) == 0o700
    events.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket away")
async def test_the_containers_user_owns_folder_and_socket(site):
    events = await site.listen(site.events_socket(), STRANGER)
    for path in (events.path, events.path.parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (54321, 54321)
    events.close()


def test_a_user_that_is_neither_us_nor_ours_to_serve_gets_no_socket(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert can_listen(User(1000, 1000, 1000, 1000))
    assert not can_listen(STRANGER)
    assert not can_listen(UNKNOWN)


# -- who may read ----------------------------------------------------------------------------


@pytest.mark.parametrize("user", [US, STRANGER, UNKNOWN])
def test_a_repository_that_everybody_may_read_is_fine(repository, user):
    check_readable("name", repository, user)


def test_what_lies_above_the_repository_does_not_matter(repository):
    repository.parent.chmod(0o700)
    check_readable("name", repository, STRANGER)


@pytest.mark.parametrize(
    ("path", "mode"),
    [(".", 0o700), ("bert", 0o744), ("bert/1/model.onnx", 0o640), ("bert/config.pbtxt", 0o600)],
)
@pytest.mark.parametrize("user", [STRANGER, UNKNOWN])
def test_what_the_containers_user_cannot_read_is_named_with_the_remedy(
    repository, path, mode, user
):
    (repository / path).chmod(mode)
    with pytest.raises(ContainerFailed, match=r"'name'.*cannot read .*chmod -R o\+rX") as caught:
        check_readable("name", repository, user)
    assert str(repository / path) in str(caught.value)
    check_readable("name", repository, US)


def test_the_group_may_be_enough(repository):
    (repository / "bert").chmod(0o750)
    member = User(54321, os.getgid(), 54321, (repository / "bert").stat().st_gid)
    check_readable("name", repository, member)


def test_an_access_list_is_not_second_guessed(repository, monkeypatch):
    (repository / "bert").chmod(0o700)
    monkeypatch.setattr(os, "listxattr", lambda path: ["system.posix_acl_access"])
    check_readable("name", repository, STRANGER)


def test_a_link_that_leads_nowhere_is_tritons_to_tell(repository):
    (repository / "bert" / "2").symlink_to("nowhere")
    check_readable("name", repository, STRANGER)
