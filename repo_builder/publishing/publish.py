"""Moves finished models into a repository: all of a model at once, or nothing.

A model's whole folder is prepared in staging, older versions hard-linked, and swapped with the
published one in a single system call; the manifest follows. Whatever fails on the way, the
repository is as it was.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from repo_builder.config.render import RenderedConfig
from repo_builder.publishing.published import Published, side_files
from repo_builder.publishing.versions import named_versions
from repo_builder.sources.base import Digest
from tritonfleet.errors import InvalidModelConfig, PublishFailed
from tritonfleet.server.layout import (
    CONFIG_NAME,
    Manifest,
    ManifestEntry,
    directory_bytes,
    model_versions,
    read_manifest,
    write_manifest,
)
from tritonfleet.server.pbtxt import parse_config
from tritonfleet.spec.serving import ServingSpec

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_HINTS = {
    errno.ENOSPC: "Free some disk space and build again.",
    errno.EDQUOT: "Free some disk space and build again.",
    errno.EACCES: "Check who owns the repository and the folder it lies in.",
    errno.EPERM: "Check who owns the repository and the folder it lies in.",
    errno.EROFS: "The file system is mounted read-only.",
}


@dataclass(frozen=True, slots=True)
class Staged:
    """A model's folder as it will be published."""

    model: str
    folder: Path
    version: int
    artifact_bytes: int


def stage(
    model: str,
    contents: Path | None,
    config: RenderedConfig,
    serving: ServingSpec,
    repository: Path,
    staging: Path,
    *,
    now: datetime | None = None,
) -> Staged:
    """Prepares a model's folder: a new version from ``contents``, or the newest one kept as it is.

    Raises PublishFailed, and InvalidModelConfig when the version policy would serve nothing.
    """
    files = {CONFIG_NAME: config.text, **config.files}
    return stage_files(model, contents, files, serving.keep_versions, repository, staging, now=now)


def stage_files(
    model: str,
    contents: Path | None,
    files: Mapping[str, str | bytes],
    keep_versions: int,
    repository: Path,
    staging: Path,
    *,
    now: datetime | None = None,
) -> Staged:
    """As ``stage``, with the files beside the versions given by their path, config.pbtxt first."""
    published, folder = repository / model, staging / f"{model}.model"
    _check_contained(model, files, published, contents)
    before = Published.read(model, repository)
    versions = model_versions(published)
    with _translated(model):
        folder.mkdir()
        version = versions[-1] if contents is None else max(versions, default=0) + 1
        if contents is not None:
            contents.rename(folder / str(version))
        config = parse_config(model, _text(files[CONFIG_NAME]))
        kept = before.kept(version, config, keep_versions, now or datetime.now(timezone.utc))
        _check_policy(model, config, kept)
        for old in kept:
            if not (folder / str(old)).exists():
                link_tree(published / str(old), folder / str(old))
        _write_files(folder, files)
        _link_files_still_read(before, folder)
        _sync(folder)
        return Staged(model, folder, version, directory_bytes(folder / str(version)))


def commit(staged: Staged, entry: ManifestEntry, repository: Path, digest: Digest) -> ManifestEntry:
    """Publishes a staged model and writes its manifest entry; undoes both when either fails.

    Gives the entry as it was written: with the digests of all files, and what a rollback to an
    older version needs.
    """
    model = staged.model
    with _translated(model):
        before = Published.read(model, repository)
        entry = before.completed(entry, staged.folder, staged.version, digest)
    with _translated(model), _uninterrupted():
        undo = _swap_in(staged.folder, repository / model)
        try:
            write_manifest(repository, read_manifest(repository).with_entry(model, entry))
        except BaseException:
            undo()
            raise
    return entry


def remove(model: str, repository: Path, staging: Path) -> None:
    """Takes a published model away, files and manifest entry."""
    aside = staging / f"{model}.removed"
    with _translated(model), _uninterrupted():
        manifest = read_manifest(repository)
        rest = {name: entry for name, entry in manifest.models.items() if name != model}
        present = (repository / model).exists()
        if present:
            (repository / model).rename(aside)
        try:
            write_manifest(repository, Manifest(format=manifest.format, models=rest))
        except BaseException:
            if present:
                aside.rename(repository / model)
            raise


def _check_policy(model: str, config: Any, versions: tuple[int, ...]) -> None:
    wanted = named_versions(config.version_policy)
    if wanted and not set(wanted) & set(versions):
        cause = f"version_policy asks for {list(wanted)}, there will be {list(versions)}"
        raise InvalidModelConfig(model, cause, "Name one of those, or use 'latest'.")


def _check_contained(
    model: str, files: Iterable[str], published: Path, contents: Path | None
) -> None:
    """Refuses names and links by which a model would read or write outside its own folder."""
    if model in ("", ".", "..") or "/" in model:
        raise PublishFailed(model, "its name is no folder's name", "Rename it in the fleet file.")
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            cause = f"the file '{name}' would lie outside the model's folder"
            raise PublishFailed(model, cause, "Name it relative to the folder, without '..'.")
    for root in (published, contents):
        link = _first_link(root) if root is not None else None
        if link is not None:
            cause = f"{link} is a symbolic link, to {link.readlink()}"
            raise PublishFailed(model, cause, "Put the file itself there: links are not followed.")


def _first_link(root: Path) -> Path | None:
    return next((path for path in (root, *root.rglob("*")) if path.is_symlink()), None)


def _text(content: str | bytes) -> str:
    return content if isinstance(content, str) else content.decode()


def _write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def _link_files_still_read(before: Published, folder: Path) -> None:
    """Leaves what the replaced configuration names: a server opens warm-up data and labels late."""
    if before.config is None:
        return
    named = str(before.config)
    for name, path in side_files(before.folder).items():
        target = folder / name
        if f'"{path.name}"' in named and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)


def link_tree(source: Path, target: Path) -> None:
    """Hard links, not symbolic ones: ONNX Runtime refuses weights that lead out of the folder."""
    shutil.copytree(source, target, copy_function=os.link)


def _sync(folder: Path) -> None:
    """Makes files and names durable before they are renamed into place."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _swap_in(staged: Path, target: Path) -> Callable[[], None]:
    """Puts a staged folder in place of a published one; gives the way back."""
    if not target.exists():
        staged.rename(target)
        return partial(os.rename, target, staged)
    try:
        exchange(staged, target)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        return _swap_in_two_steps(staged, target)
    return partial(exchange, staged, target)


def _swap_in_two_steps(staged: Path, target: Path) -> Callable[[], None]:
    """For file systems without an exchange: a moment without the model, restored on failure."""
    aside = staged.with_name(f"{staged.name}.old")
    target.rename(aside)
    try:
        staged.rename(target)
    except BaseException:
        aside.rename(target)
        raise

    def undo() -> None:
        target.rename(staged)
        aside.rename(target)

    return undo


def exchange(one: Path, other: Path) -> None:
    """Swaps two paths in one step; OSError where kernel or file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


@contextmanager
def _translated(model: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        hint = _HINTS.get(error.errno or 0, "The published repository is unchanged.")
        raise PublishFailed(model, f"{where}{error.strerror or error}", hint) from error


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back until folder and manifest agree again: milliseconds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _: caught.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for late in caught[:1]:
            signal.raise_signal(late)
