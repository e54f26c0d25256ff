"""Folders, versions, links and names: what Triton skips, refuses or follows out of sight."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from repo_builder.lint.backends import COMPLETING
from repo_builder.lint.findings import Expected, Finding, Rule
from repo_builder.lint.repository import UNREADABLE, Subject

MISSING_CONFIG = Rule("missing-config", "error", "a model that needs a configuration has none")
COMPLETED_CONFIG = Rule("completed-config", "info", "a configuration left to the server")
NAME_DIFFERS = Rule("name-differs", "error", "a configuration named otherwise than its folder")
ODD_NAME = Rule("odd-name", "warning", "a model's name that URLs and newer servers trip over")
NO_VERSION = Rule("no-version", "error", "a model without a version folder")
IGNORED_VERSION = Rule("ignored-version", "warning", "a version folder that Triton skips")
POLICY_EMPTY = Rule("policy-serves-nothing", "error", "a version policy that no version satisfies")
POLICY_MISSING = Rule("policy-missing-version", "warning", "a version policy naming absent ones")
BROKEN_LINK = Rule("broken-link", "error", "a symbolic link that leads nowhere or in a circle")
LINK_OUTSIDE = Rule("link-outside", "warning", "a symbolic link that leaves the repository")
LINKED_FOLDER = Rule("linked-folder", "warning", "a model or version that is a symbolic link")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NEARLY_VERSION = re.compile(r"(?:v|version)[-_ ]?\d+|0\d+|[-+]\d+|\d+[._]\d+", re.IGNORECASE)


def check(subject: Subject, expected: Expected) -> Iterator[Finding]:
    """Everything about the model's folder."""
    yield from _name(subject)
    if not subject.file:
        yield _missing_config(subject)
    yield from _versions(subject)
    if subject.parsed:
        yield from _policy(subject)
    yield from _links(subject)


def _name(subject: Subject) -> Iterator[Finding]:
    if not _NAME.fullmatch(subject.model):
        message = (
            f"the name {subject.model!r} has characters other than letters, digits, _, . and -"
        )
        yield ODD_NAME.found(message, "Rename the folder, and 'name' with it.")
    if subject.config.name and subject.config.name != subject.model:
        message = f"it is named '{subject.config.name}', its folder '{subject.model}'"
        yield NAME_DIFFERS.found(message, f'Write name: "{subject.model}", or rename.', "name")


def _missing_config(subject: Subject) -> Finding:
    if subject.backend in COMPLETING:
        message = f"there is no config.pbtxt: the {subject.backend} backend has to complete it"
        fix = "Write one: servers with --disable-auto-complete-config refuse the model."
        return COMPLETED_CONFIG.found(message, fix)
    known = f"the {subject.backend} backend" if subject.backend else "no backend that is known"
    message = f"there is no config.pbtxt, and {known} can do without"
    return MISSING_CONFIG.found(message, "Write one with backend, inputs and outputs.")


def _versions(subject: Subject) -> Iterator[Finding]:
    near = [name for name in _folders(subject.folder) if _NEARLY_VERSION.fullmatch(name)]
    for name in near:
        digits = re.findall(r"\d+", name)[-1].lstrip("0") or "0"
        message = f"Triton ignores the folder '{name}': versions are plain numbers"
        yield IGNORED_VERSION.found(message, f"Rename it to '{digits}'.", name)
    if not subject.versions:
        message = "there is no version folder, so there is nothing to load"
        yield NO_VERSION.found(message, "Put the model's files into a folder named '1'.")


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError:
        return []


def _policy(subject: Subject) -> Iterator[Finding]:
    policy, place = subject.config.version_policy, "version_policy"
    has = ", ".join(map(str, subject.versions))
    if subject.versions and not subject.served:
        yield POLICY_EMPTY.found(f"of the versions {has} it serves none", "Name one.", place)
        return
    missing = sorted(set(policy.specific.versions) - set(subject.versions))
    if missing and subject.versions:
        message = f"it asks for {missing}, and there are {has}: Triton says nothing of the missing"
        yield POLICY_MISSING.found(message, "Publish them, or take them out.", place)


def _links(subject: Subject) -> Iterator[Finding]:
    root = os.path.realpath(subject.folder.parent)
    for path in _symbolic_links(subject.folder):
        place = os.path.relpath(path, subject.folder)
        target = os.path.realpath(path)
        if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises on some links
            message = f"'{place}' leads to nothing: {path.readlink()}"
            yield BROKEN_LINK.found(message, "Put the file itself there.", place)
        elif os.path.commonpath([root, target]) != root:
            message = f"'{place}' leads out of the repository, to {target}"
            fix = "Put the file there, or a hard link: a copy of the repository lacks it."
            yield LINK_OUTSIDE.found(message, fix, place)
        elif path == subject.folder or (path.parent == subject.folder and path.is_dir()):
            message = f"'{place}' is a link: set back to older content, Triton sees no change"
            yield LINKED_FOLDER.found(message, "Use a folder, with hard links inside.", place)


def _symbolic_links(folder: Path) -> Iterator[Path]:
    if folder.is_symlink():
        yield folder
    for where, folders, files in os.walk(folder, onerror=None):
        for name in sorted((*folders, *files)):
            path = Path(where, name)
            if path.is_symlink():
                yield path


def unreadable(path: Path, error: OSError, folder: Path) -> Finding:
    """The finding for a file that a rule had to read and could not."""
    place = os.path.relpath(path, folder)
    message = f"'{place}' cannot be read: {error.strerror or error}"
    return UNREADABLE.found(message, "Give the server's user the right to read it.", place)
