"""What the models of one tritonserver tell of themselves, as it happens.

A backend that takes part sends single JSON datagrams to a Unix socket: when it has opened a model
version, when that has grown, and when its memory is free again. Sending is best effort and never
blocks, so a datagram may be lost: whoever waits for one needs a second way of finding out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

log = logging.getLogger(__name__)
_RECEIVE_BUFFER_BYTES = 2**20
_LARGEST_DATAGRAM_BYTES = 2**16

Kind = Literal["loaded", "memory", "unloaded"]
Listener = Callable[["ModelEvent"], None]


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """A model version was opened, has grown, or has given its memory back."""

    kind: Kind
    model: str
    version: int
    bytes: int
    """What this version holds from now on."""


class _Datagram(BaseModel):
    """The event as it is written down."""

    model_config = ConfigDict(strict=True, frozen=True)

    event: Kind
    model: str = Field(min_length=1)
    version: int
    bytes: int = Field(ge=0)


@dataclass(slots=True)
class _Held:
    copies: int = 0
    """Two for a while when a changed model replaces itself: the new one opens first."""
    bytes: int = 0


class ModelEvents:
    """What the models of one tritonserver tell of themselves, as it happens."""

    def __init__(self, path: Path, sock: socket.socket) -> None:
        self.path = path
        self._socket, self._inode = sock, path.stat().st_ino
        self._held: dict[tuple[str, int], _Held] = {}
        self._listeners: list[Listener] = []
        self._complained = False

    @classmethod
    async def listen(cls, path: Path) -> ModelEvents:
        """Binds the datagram socket, in the place of one that an earlier run may have left.

        Raises OSError where that cannot be done; a path has no more than 107 bytes.
        """
        sock = _bound_socket(path)
        events = cls(path, sock)
        asyncio.get_running_loop().add_reader(sock, events._read)
        return events

    def bytes_of(
        self, model: str, version: int | None = None, *, apart_from: Iterable[int] = ()
    ) -> int | None:
        """What a version of a model holds, or all together but for some.

        None if they never told or are unloaded.
        """
        others = set(apart_from)
        found = [
            held.bytes
            for (name, number), held in self._held.items()
            if name == model and number not in others and version in (None, number)
        ]
        return sum(found) if found else None

    def forget(self, model: str) -> None:
        """A model is known to be gone, though it did not say so: the datagram was lost."""
        for key in [key for key in self._held if key[0] == model]:
            del self._held[key]

    def departure(self, model: str, version: int | None = None) -> asyncio.Future[None]:
        """Done once a model, or a version, has told that its memory is free; may be cancelled."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def listen(event: ModelEvent) -> None:
            left = event.model == model and self.bytes_of(model, version) is None
            if left and not gone.done():
                gone.set_result(None)

        unsubscribe = self.subscribe(listen)
        gone.add_done_callback(lambda _: unsubscribe())
        return gone

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Calls ``listener`` on the event loop with each event, until what it returns is called."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def close(self) -> None:
        """Stops listening and removes the socket; harmless afterwards."""
        if self._socket.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:  # not that of a successor
                self.path.unlink()
        self._socket.close()

    def _read(self) -> None:
        # All that has come: a kernel keeps as few as ten datagrams before senders lose theirs.
        while self._socket.fileno() >= 0:
            try:
                datagram = self._socket.recv(_LARGEST_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            self._take(datagram)

    def _take(self, datagram: bytes) -> None:
        event = _parse(datagram)
        if event is None:
            self._complain(datagram)
            return
        self._note(event)
        for listener in tuple(self._listeners):
            listener(event)

    def _note(self, event: ModelEvent) -> None:
        key = (event.model, event.version)
        held = self._held.setdefault(key, _Held())
        if event.kind == "unloaded":
            held.copies -= 1
            if held.copies <= 0:
                del self._held[key]
            return
        held.copies = held.copies + 1 if event.kind == "loaded" else max(1, held.copies)
        held.bytes = event.bytes

    def _complain(self, datagram: bytes) -> None:
        if not self._complained:
            self._complained = True
            log.warning("socket=%s no event of a model: %.200r", self.path, datagram)


def _bound_socket(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        # Before it is bound, so that there is no moment in which others could write to it.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(path))
        _hand_over(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _hand_over(path: Path) -> None:
    """Gives the socket to the user whose folder it lies in: a server in a container has its own."""
    folder = path.parent.stat()
    if os.geteuid() == 0 and folder.st_uid != 0:
        os.chown(path, folder.st_uid, folder.st_gid)


def _parse(datagram: bytes) -> ModelEvent | None:
    try:
        told = _Datagram.model_validate_json(datagram)
    except ValidationError:
        return None
    return ModelEvent(told.event, told.model, told.version, told.bytes)
