"""One build at a time beside a repository, and a folder that leaves nothing behind.

Staging lies next to the repository, not in it: Triton lists every folder it finds there, hidden
ones too. Being on the same file system, a finished model moves in by a rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tritonfleet.errors import PublishFailed

_NOBODY = "the build"


@contextmanager
def open_staging(repository: Path) -> Iterator[Path]:
    """An empty folder for one build; gone afterwards, as is what a dead build had left.

    Raises PublishFailed when another build of the same repository runs, or when a finished model
    could not be renamed into it.
    """
    repository = repository.resolve()
    folder = repository.with_name(f".{repository.name}.staging")
    with contextlib.ExitStack() as stack:
        with _translated():
            repository.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(repository))
            # Whoever holds the lock is alone: a folder that is here belongs to nobody.
            shutil.rmtree(folder, ignore_errors=True)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.mkdir()
            _check_same_file_system(repository, folder)
        yield folder


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause = f"{error.filename}: {error.strerror}"
        hint = "Models are staged beside the repository: its parent folder must be writable."
        raise PublishFailed(_NOBODY, cause, hint) from error


def _check_same_file_system(repository: Path, folder: Path) -> None:
    if repository.stat().st_dev != folder.stat().st_dev:
        cause = f"{repository} is a mount point, and models are staged beside it"
        raise PublishFailed(_NOBODY, cause, "Use a folder inside the mount as the repository.")


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """Holds ``.<repository>.lock``; the kernel frees it when the process dies."""
    path = repository.with_name(f".{repository.name}.lock")
    file = _acquire(repository, path)
    try:
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
    finally:
        # Removed while it is held, so that nobody can lock a file that is no longer there.
        path.unlink(missing_ok=True)
        file.close()


def _acquire(repository: Path, path: Path) -> IO[str]:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            cause = f"another build of {repository} is running, process {owner}"
            raise PublishFailed(_NOBODY, cause, "Wait for it, or stop it.") from None
        # The last holder may have removed the file between our open and our lock.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()
