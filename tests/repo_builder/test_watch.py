from __future__ import annotations

import queue
import threading

import pytest

from repo_builder.watch import Watched, watch, watch_and_build
from tests.repo_builder.builders import python_model, shop
from tests.repo_builder.test_cli import write_fleet
from tritonfleet.errors import InvalidSpec, Problem
from tritonfleet.spec import load_fleet

PATIENCE_S = 30


class Watcher:
    """A watch on a thread of its own."""

    def __init__(self, named, first, build=lambda: None) -> None:
        self.events: queue.Queue[str] = queue.Queue()
        self.stop = threading.Event()
        self._build = build
        self._thread = threading.Thread(
            target=watch, args=(named, self.build, self.report, lambda: self.events.put("idle")),
            kwargs={"first": first, "stop": self.stop},
        )  # fmt: skip

    def build(self):
        self.events.put("build")
        self._build()

    def report(self, error):
        self.events.put(f"error: {error}")

    def next(self) -> str:
        return self.events.get(timeout=PATIENCE_S)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


def watching(*paths, **options):
    watched = Watched(tuple(paths), options.pop("ignored", ()))
    return Watcher(lambda: watched, watched, **options)


def touch_until(watcher, change):
    """The file system's own watch begins a moment after it is said: so the change is repeated."""
    for turn in range(100):
        change(turn)
        try:
            return watcher.events.get(timeout=1.0)
        except queue.Empty:
            continue
    raise AssertionError("no change was ever seen")


def test_it_builds_at_once_and_after_a_change(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text("a")
    with watching(file) as watcher:
        assert (watcher.next(), watcher.next()) == ("build", "idle")
        assert touch_until(watcher, lambda turn: file.write_text(f"change {turn}")) == "build"


def test_a_file_that_is_replaced_as_editors_do_is_still_followed(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text("a")

    def replace(turn):
        (tmp_path / "draft").write_text(f"change {turn}")
        (tmp_path / "draft").replace(file)

    with watching(file) as watcher:
        for _ in range(2):
            while watcher.next() != "idle":
                pass
            assert touch_until(watcher, replace) == "build"


def test_a_change_during_the_build_is_not_missed(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text("a")
    edits = iter(["changed while it was built"])

    def build():
        for text in edits:
            file.write_text(text)

    with watching(file, build=build) as watcher:
        assert [watcher.next() for _ in range(3)] == ["build", "build", "idle"]


def test_what_a_build_writes_itself_starts_no_other(tmp_path):
    repository = tmp_path / "repository"

    def build():
        repository.mkdir(exist_ok=True)
        (repository / "model").write_text("built")

    with watching(tmp_path, ignored=(repository,), build=build) as watcher:
        assert [watcher.next() for _ in range(2)] == ["build", "idle"]


def test_a_build_that_fails_is_reported_and_waited_upon(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text("a")

    def build():
        raise InvalidSpec(str(file), (Problem("models", "is missing"),))

    with watching(file, build=build) as watcher:
        assert watcher.next() == "build"
        assert "models: is missing" in watcher.next()
        assert watcher.next() == "idle"
        assert touch_until(watcher, lambda turn: file.write_text(f"{turn}")) == "build"


def test_ctrl_c_ends_it_quietly(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    watch(lambda: Watched((tmp_path,)), interrupted, print, print, first=Watched((tmp_path,)))


def test_the_fleet_file_and_the_sources_are_watched_the_repository_is_not(tmp_path, monkeypatch):
    file = write_fleet(tmp_path, {"echo": python_model(tmp_path, "echo")})
    seen = []

    def watch_once(named, build, report, idle, *, first):
        seen.extend([first, named()])

    monkeypatch.setattr("repo_builder.watch.watch", watch_once)
    work = shop(tmp_path, load_fleet(file).model_dump(exclude_unset=True)["models"])
    watch_and_build(file, lambda: work, lambda: None)
    first, watched = seen
    assert first.paths == (file,)
    assert watched.concerns(file)
    assert watched.concerns(tmp_path / "echo/model.py")
    assert not watched.concerns(tmp_path / "repository/echo/1/model.py")
    assert not watched.concerns(tmp_path / "unrelated")


@pytest.mark.parametrize(
    ("changed", "concerned"),
    [("a/b.py", True), ("a", True), ("", True), ("c", False), ("a/__pycache__/b.pyc", False)],
)
def test_what_lies_below_or_above_a_watched_folder_concerns_it(tmp_path, changed, concerned):
    assert Watched((tmp_path / "a",)).concerns(tmp_path / changed) is concerned


def test_a_file_in_a_folder_that_is_not_there_yet_is_watched_from_the_nearest_one(tmp_path):
    watched = Watched((tmp_path / "not/yet/there.yaml", tmp_path / "also"))
    assert watched.folders == (tmp_path,)
