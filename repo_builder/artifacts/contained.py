"""Symbolic links: those inside a folder are fine, those that lead out of it are refused."""

from __future__ import annotations

from pathlib import Path

from tritonfleet.errors import SourceUnavailable


def check_links(model: str, folder: Path) -> None:
    """Refuses a folder with a link that leads out of it: what it shows was never part of it."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            check_link(model, path, folder)


def check_link(model: str, path: Path, folder: Path) -> None:
    """Refuses one path of a folder that is, or lies behind, a link out of it."""
    target = path.resolve()
    if any(target.is_relative_to(allowed) for allowed in _homes(folder.resolve())):
        return
    cause = f"{path} is a symbolic link that leads out of {folder}, to {target}"
    raise SourceUnavailable(model, cause, "Put the file itself there.")


def _homes(folder: Path) -> tuple[Path, ...]:
    """Where the files of a folder may lie: a snapshot of the hub's cache links to its blobs."""
    if folder.parent.name == "snapshots":
        return folder, folder.parent.parent / "blobs"
    return (folder,)
