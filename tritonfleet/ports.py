"""Ports that stay ours while whoever listens on them is being restarted."""

from __future__ import annotations

import socket

from tritonfleet.errors import PortTaken


class Reservation:
    """A TCP port nobody else can take; our own programs listen on it with ``SO_REUSEPORT``."""

    def __init__(self, host: str, port: int, flag: str) -> None:
        """Port 0 picks one. Raises PortTaken, which names the flag that chooses another."""
        family, _, _, _, address = _resolve(host, port, flag)
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            _take(self._socket, address)
        except OSError as error:
            self._socket.close()
            raise PortTaken(host, port, flag) from error

    @property
    def port(self) -> int:
        """The port itself."""
        return int(self._socket.getsockname()[1])

    def release(self) -> None:
        """Lets others have it; harmless afterwards."""
        self._socket.close()


def _resolve(
    host: str, port: int, flag: str
) -> tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise PortTaken(host, port, flag) from error


def _take(sock: socket.socket, address: tuple[object, ...]) -> None:
    # Connections of an earlier run may linger in TIME_WAIT; they are no obstacle.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Alone: with SO_REUSEPORT set before, another fleet of the same user would go unnoticed.
    sock.bind(address)
    # From here on our own programs may bind it, too. Others find it taken.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
