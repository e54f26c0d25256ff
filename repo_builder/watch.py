"""Builds again whenever something that a build reads has changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from repo_builder.workshop import Workshop, watched_paths
from tritonfleet.errors import FleetError

QUIET_MS = 300
"""Editors write a file in several steps; so long must nothing happen before it counts as done."""
_BYTE_CODE = "__pycache__"


@dataclass(frozen=True, slots=True)
class Watched:
    """Files and folders whose changes count."""

    paths: tuple[Path, ...]
    ignored: tuple[Path, ...] = ()
    """Below them, what a build writes itself."""

    def concerns(self, changed: Path) -> bool:
        """Whether a changed path is one of the watched, or below or above one of them."""
        if _BYTE_CODE in changed.parts or any(_within(changed, path) for path in self.ignored):
            return False
        return any(_within(changed, path) or _within(path, changed) for path in self.paths)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The nearest folders there are.

        A file is watched through its folder: an editor replaces it by another of its name, and a
        watch of the file itself would stay with the old one.
        """
        folders = []
        for path in self.paths:
            folder = path if path.is_dir() else path.parent
            while not folder.is_dir():
                folder = folder.parent
            folders.append(folder)
        return tuple(dict.fromkeys(folders))

    def snapshot(self) -> dict[Path, tuple[int, int]]:
        """Size and time of every file, to tell whether one changed while nobody was watching."""
        below = (
            file
            for path in self.paths
            for file in (path.rglob("*") if path.is_dir() else (path,))
            if file.is_file() and self.concerns(file)
        )
        return {file: (status.st_size, status.st_mtime_ns) for file in below
                if (status := file.stat())}  # fmt: skip


def watch_and_build(
    fleet_file: Path, open_shop: Callable[[], Workshop], build: Callable[[], Any]
) -> None:
    """Builds now and after every change of the fleet file or of what its models are made of.

    Until Ctrl-C. An invalid fleet file prints its mistakes and is waited upon.
    """

    def named() -> Watched:
        shop = open_shop()
        paths = (fleet_file.resolve(), *watched_paths(shop))
        return Watched(paths, (shop.repository.resolve(), shop.state_dir.resolve()))

    def report(error: FleetError) -> None:
        click.secho(f"error: {error}", fg="red", err=True)

    def idle() -> None:
        click.secho("watching for changes; Ctrl-C ends", dim=True, err=True)

    watch(named, build, report, idle, first=Watched((fleet_file.resolve(),)))


def watch(
    named: Callable[[], Watched],
    build: Callable[[], Any],
    report: Callable[[FleetError], None],
    idle: Callable[[], None],
    *,
    first: Watched,
    stop: threading.Event | None = None,
) -> None:
    """Builds now and after every change, until Ctrl-C or ``stop``; what fails is reported.

    ``named`` is asked before every build and every wait, since what it names may have changed;
    while it fails, its last answer holds, and ``first`` before there is one.
    """
    watched = first
    try:
        while True:
            # Before the build, so that what changes while it runs is not missed.
            watched = _renewed(named, watched)
            seen = watched.snapshot()
            try:
                build()
            except FleetError as error:
                report(error)
            watched = _renewed(named, watched)
            if watched.snapshot() == seen:
                idle()
                if not _changed(watched, stop):
                    return
    except KeyboardInterrupt:
        return


def _renewed(named: Callable[[], Watched], before: Watched) -> Watched:
    try:
        return named()
    except FleetError:  # the build has the same to say, and says it
        return before


def _changed(watched: Watched, stop: threading.Event | None) -> bool:
    """Waits for a change of what is watched; False when told to stop."""
    from watchfiles import watch as follow

    changes: Iterator[Any] = follow(
        *watched.folders,
        watch_filter=lambda _, path: watched.concerns(Path(path)),
        debounce=4 * QUIET_MS,
        step=QUIET_MS,
        stop_event=stop,
    )
    return next(changes, None) is not None


def _within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents
