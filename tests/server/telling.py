"""What a backend that tells of its models sends, for the tests of those who listen."""

from __future__ import annotations

import json
import socket


class Backend:
    """Sends as a backend does: single datagrams that never block."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._path = str(path)

    def tell(self, kind, model="bert", version=1, size=0, **more):
        event = {"event": kind, "model": model, "version": version, "bytes": size, **more}
        self.send(json.dumps(event).encode())

    def send(self, datagram):
        self._socket.sendto(datagram, self._path)

    def close(self):
        self._socket.close()
