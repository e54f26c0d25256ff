"""The folder of Envoy's files and sockets: where it is, whose it is, how files get into it.

Envoy watches these files: each appears whole or not at all. Some hold secrets: nobody else may
enter. The folder is the same after a restart, so that whoever comes later finds what runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tritonfleet.errors import LauncherUnavailable
from tritonfleet.launchers.lock import try_lock

_SOCKET_BYTES = 107
"""The longest path of a Unix socket."""
_LONGEST_NAME = "/activator-http.sock"
_BESIDE = ".new"
_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder in it is private, and checked
_MEMORY_BYTES = 2**30
"""A container's usual 64 MiB are wanted by Triton's models, and thousands of models need more."""


def run_folder(state_dir: Path, *, shared: bool = False) -> Path:
    """The folder that belongs to ``state_dir``: in memory where there is room, else inside it.

    On a disk, renaming a file over another takes up to a millisecond, and each eviction does so.
    ``shared`` with an Envoy in another container, of which only ``state_dir`` is the same, it is
    always inside; LauncherUnavailable where sockets would have too long a path.
    """
    inside = state_dir.resolve() / "gateway"
    if shared:
        return _short_enough(inside)
    digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:16]
    if _has_room(_MEMORY):
        return _MEMORY / f"tritonfleet-gateway-{digest}"
    if _fits(inside):
        return inside
    usual = Path(tempfile.gettempdir(), f"tritonfleet-{digest}")
    return usual if _fits(usual) else Path("/tmp") / usual.name  # noqa: S108 - checked below


def _short_enough(folder: Path) -> Path:
    if not _fits(folder):
        longest = _SOCKET_BYTES - len(_LONGEST_NAME)
        raise LauncherUnavailable(
            "envoy",
            f"{folder} is too long a path for sockets, which has {longest} bytes at most",
            "Choose a shorter state_dir.",
        )
    return folder


class Share:
    """That somebody needs a folder; of all who do, the last to end removes it.

    The lock is one of the kernel's: it holds between containers, and ends with its process.
    """

    def __init__(self, folder: Path) -> None:
        """LauncherUnavailable when the folder is another user's."""
        self._folder = folder
        self._descriptor = _open_shared(folder)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def end(self) -> None:
        """Removes the folder if nobody else needs it; harmless afterwards."""
        if self._descriptor < 0:
            return
        # Not in one step: two that end together would wait for each other.
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        if try_lock(self._descriptor):
            remove(self._folder)
        os.close(self._descriptor)
        self._descriptor = -1


def _open_shared(folder: Path) -> int:
    lock = folder.with_name(f"{folder.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _not_ours(lock, f"cannot be opened: {error.strerror}") from error
    owner = os.fstat(descriptor).st_uid
    if owner != os.getuid():
        os.close(descriptor)
        raise _not_ours(lock, f"belongs to user {owner}")
    return descriptor


def _not_ours(lock: Path, what: str) -> LauncherUnavailable:
    return LauncherUnavailable(
        "envoy",
        f"{lock} {what}, and this process is of user {os.getuid()}",
        "Run 'tritonfleet serve' and 'tritonfleet envoy' as one user who may write there.",
    )


def remove(folder: Path) -> None:
    """Removes the folder with all that is in it, secrets too: nothing of it outlives a fleet."""
    with contextlib.suppress(OSError):
        _check_owner(folder)
        shutil.rmtree(folder)


def _has_room(folder: Path) -> bool:
    """By its size and not by what is free: every part of a fleet must come to the same answer."""
    try:
        size = os.statvfs(folder)
    except OSError:
        return False
    return size.f_blocks * size.f_frsize >= _MEMORY_BYTES and os.access(folder, os.W_OK)


def _fits(folder: Path) -> bool:
    return len(os.fsencode(f"{folder}{_LONGEST_NAME}")) <= _SOCKET_BYTES


def prepare(folder: Path) -> None:
    """Makes the folder ours alone, and removes what an interrupted write may have left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _check_owner(folder)
    folder.chmod(0o700)
    for file in folder.glob(f"*{_BESIDE}"):
        file.unlink(missing_ok=True)


def _check_owner(folder: Path) -> None:
    # In a folder for everybody's temporary files, somebody else may have been quicker.
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise LauncherUnavailable(
            "envoy", f"{folder} belongs to somebody else", "Remove it, or choose another state_dir."
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """The descriptor of a lock on the folder itself; None while somebody else holds it.

    The lock also tells those who clean folders of temporary files to leave this one alone.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor if try_lock(descriptor) else None
    finally:
        os.close(descriptor)


def encode(content: Any, pieces: int = 4) -> bytes:
    """JSON without a byte too many; the same facts give the same bytes.

    Made in pieces, down to that depth, for no other thread runs while one of them is made: those
    who wait for a cold model should not wait for megabytes.
    """
    if pieces and isinstance(content, dict):
        items = sorted(content.items())
        return b"{%s}" % b",".join(_dump(k) + b":" + encode(v, pieces - 1) for k, v in items)
    if pieces and isinstance(content, list):
        return b"[%s]" % b",".join(encode(each, pieces - 1) for each in content)
    return _dump(content)


def _dump(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()


def read(file: Path) -> bytes | None:
    """What the file holds; None when there is none."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def write(file: Path, content: bytes) -> bool:
    """Puts the content in place at once and whole, for us alone; whether it was another before."""
    if read(file) == content:
        return False
    beside = file.with_name(f"{file.name}{_BESIDE}")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    beside.replace(file)
    return True


def restore(file: Path, content: bytes | None) -> None:
    """Puts back what was there; None removes the file."""
    if content is None:
        file.unlink(missing_ok=True)
    else:
        write(file, content)
