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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from repo_builder.config import RenderedConfig
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
from tritonfleet.server.pbtxt import read_config
from tritonfleet.spec.fleet import ServingSpec

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_IO_FIELDS = ("backend", "platform", "max_batch_size", "input", "output")
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
) -> Staged:
    """Prepares a model's folder: a new version from ``contents``, or the newest one kept as it is.

    Raises PublishFailed, and InvalidModelConfig when the version policy would serve nothing.
    """
    published, folder = repository / model, staging / f"{model}.model"
    versions = model_versions(published)
    with _translated(model):
        folder.mkdir()
        version = versions[-1] if contents is None else max(versions, default=0) + 1
        if contents is not None:
            contents.rename(folder / str(version))
            versions = (*versions, version)
        kept = _kept(versions, serving, _same_interface(model, config.message, repository))
        _check_policy(model, serving, kept)
        for old in kept:
            if not (folder / str(old)).exists():
                _link_tree(published / str(old), folder / str(old))
        for name, text in {CONFIG_NAME: config.text, **config.label_files}.items():
            (folder / name).write_text(text, encoding="utf-8")
        _sync(folder)
        return Staged(model, folder, version, directory_bytes(folder / str(version)))


def commit(staged: Staged, entry: ManifestEntry, repository: Path) -> None:
    """Publishes a staged model and writes its manifest entry; undoes both when either fails."""
    with _translated(staged.model), _uninterrupted():
        undo = _swap_in(staged.folder, repository / staged.model)
        try:
            write_manifest(repository, read_manifest(repository).with_entry(staged.model, entry))
        except BaseException:
            undo()
            raise


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


def _kept(versions: tuple[int, ...], serving: ServingSpec, comparable: bool) -> tuple[int, ...]:
    """The versions that stay: the newest few, and those the policy names."""
    if not comparable:
        return versions[-1:]
    named = serving.version_policy.specific or ()
    newest = versions[-serving.keep_versions :]
    return tuple(version for version in versions if version in newest or version in named)


def _same_interface(model: str, config: Any, repository: Path) -> bool:
    """Whether older versions take and give what the new configuration declares."""
    if not (repository / model / CONFIG_NAME).is_file():
        return False
    try:
        published = read_config(repository, model)
    except InvalidModelConfig:
        return False
    return all(getattr(published, name) == getattr(config, name) for name in _IO_FIELDS)


def _check_policy(model: str, serving: ServingSpec, versions: tuple[int, ...]) -> None:
    wanted = serving.version_policy.specific
    if wanted and not set(wanted) & set(versions):
        cause = f"version_policy asks for {list(wanted)}, there will be {list(versions)}"
        raise InvalidModelConfig(model, cause, "Name one of those, or use 'latest'.")


def _link_tree(source: Path, target: Path) -> None:
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
