"""Who hangs up while nobody reads what they send.

A connection of which no more is read, because its request waits and its body has to stay where it
is, does not tell asyncio that the other side has gone. The kernel knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Iterator


class Departures:
    """Breaks connections off whose other side has hung up, so that their requests are forgotten."""

    def __init__(self) -> None:
        self._poll: select.epoll | None = None
        self._watched: dict[int, asyncio.Transport] = {}

    @contextlib.contextmanager
    def watched(self, transport: asyncio.Transport | None) -> Iterator[None]:
        """Looks after one connection as long as the block lasts."""
        socket = transport.get_extra_info("socket") if transport else None
        if transport is None or socket is None:
            yield
            return
        number = socket.fileno()
        self._watched[number] = transport
        self._epoll().register(number, select.EPOLLRDHUP)
        try:
            yield
        finally:
            self._forget(number, transport)

    def close(self) -> None:
        """Watches nobody any more."""
        if self._poll is not None:
            asyncio.get_running_loop().remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None

    def _epoll(self) -> select.epoll:
        # asyncio's own knows each connection only while it is read from.
        if self._poll is None:
            self._poll = select.epoll()
            asyncio.get_running_loop().add_reader(self._poll.fileno(), self._break_off)
        return self._poll

    def _break_off(self) -> None:
        assert self._poll
        for number, _ in self._poll.poll(0):
            transport = self._watched[number]
            self._forget(number, transport)
            transport.abort()

    def _forget(self, number: int, transport: asyncio.Transport) -> None:
        if self._watched.get(number) is not transport:
            return  # it has hung up, and the number may be another's by now
        del self._watched[number]
        if self._poll is not None:
            with contextlib.suppress(OSError):  # closed, which has taken it out
                self._poll.unregister(number)
