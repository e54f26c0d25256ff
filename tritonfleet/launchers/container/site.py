"""What one container's server has on this machine's disk."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from tritonfleet.errors import ContainerFailed
from tritonfleet.launchers.command import Invocation, Ports
from tritonfleet.launchers.container.recipe import User
from tritonfleet.launchers.native import events_folder
from tritonfleet.launchers.site import ServerSite
from tritonfleet.server.events import ModelEvents

LAUNCHER = "container"
_LONGEST_SOCKET = 107
_SOCKET = "events"


@dataclass(frozen=True, slots=True)
class Site(ServerSite):
    """The folder of one server, its log, and what is noted for whoever adopts its container."""

    launcher: ClassVar[str] = LAUNCHER

    # -- the socket on which models tell of themselves -----------------------------------------

    def events_socket(self) -> Path:
        """Always the same: a container that is adopted goes on writing to it."""
        usual = self.folder / "models" / _SOCKET
        if len(os.fsencode(usual)) <= _LONGEST_SOCKET:
            return usual
        return events_folder(f"tritonfleet-{self.folder.stat().st_ino:x}") / _SOCKET

    async def listen(self, socket: Path, user: User) -> ModelEvents:
        """Binds the socket, in a folder that the container's user alone may enter."""
        _private_folder(socket.parent, user)
        return await ModelEvents.listen(socket)

    # -- what an adopter needs -----------------------------------------------------------------

    def note(self, invocation: Invocation) -> None:
        """Writes down how to reach the server, for nobody else's eyes."""
        content = {
            "instance": invocation.instance,
            "admin_secret": invocation.admin_secret,
            "ports": asdict(invocation.ports),
        }
        self._notes.unlink(missing_ok=True)
        descriptor = os.open(self._notes, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)

    def noted(self, events: Path | None, address: str) -> Invocation | None:
        """How the last container was started; None when that is not known."""
        try:
            content = json.loads(self._notes.read_text(encoding="utf-8"))
            ports = Ports(**content["ports"])
            secret = content["admin_secret"]
            return Invocation(content["instance"], ports, secret, events, address)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def forget(self) -> None:
        """The container is gone, and its secret with it."""
        self._notes.unlink(missing_ok=True)

    @property
    def _notes(self) -> Path:
        return self.folder / "container.json"


def _private_folder(folder: Path, user: User) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0 and user.host_uid:
        os.chown(folder, user.host_uid, user.host_gid or 0)


def can_listen(user: User) -> bool:
    """Whether a socket of ours can be one that the container's user may write to."""
    return user.host_uid is not None and os.geteuid() in (0, user.host_uid)


def check_readable(container: str, repository: Path, user: User) -> None:
    """ContainerFailed when the container's user cannot read all of the model repository."""
    # A few hundred entries in general; weights are not opened.
    for path in (repository, *sorted(repository.rglob("*"))):
        if not is_readable(path, user):
            raise ContainerFailed(
                container,
                f"its user {user} cannot read {path}",
                f"Let others read the repository ('chmod -R o+rX {repository}'), or choose the "
                "owner with 'user'.",
            )


def is_readable(path: Path, user: User) -> bool:
    """Whether a user may read a file, or list a folder and enter it, by its own mode."""
    try:
        found = path.stat()
    except OSError:
        return True  # a link that leads nowhere, or removed just now: Triton will tell
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else 0)
    if found.st_uid == user.host_uid:
        wanted <<= 6
    elif found.st_gid == user.host_gid:
        wanted <<= 3
    return found.st_mode & wanted == wanted or _has_access_list(path)


def _has_access_list(path: Path) -> bool:
    """Whether more decides than the mode; what that is we leave to Triton to find out."""
    with contextlib.suppress(OSError):
        return "system.posix_acl_access" in os.listxattr(path)
    return False
