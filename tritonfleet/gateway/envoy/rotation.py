"""Keeps the access log from filling the disk."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from tritonfleet.errors import ServerTimeout, ServerUnreachable
from tritonfleet.gateway.envoy.admin import Admin
from tritonfleet.launchers import logs

_LARGEST_BYTES = 64 * 2**20
_LOOK_S = 10.0
_log = logging.getLogger(__name__)


class LogRotation:
    """Looks at one log now and then; three earlier ones are kept beside it."""

    def __init__(self, access_log: Path, admin: Admin, largest_bytes: int = _LARGEST_BYTES) -> None:
        self._file, self._admin, self._largest_bytes = access_log, admin, largest_bytes

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> bool:
        """Begins a new log if this one has grown too large, and says whether it did."""
        try:
            if not self._is_large():
                return False
            begin(self._file)
            await self._admin.reopen_logs()
        except (ServerUnreachable, ServerTimeout):
            pass  # the next Envoy opens the new one anyway; a slow one does so at the next look
        except OSError:
            _log.exception("cannot rotate file=%s", self._file)
            return False
        return True

    def _is_large(self) -> bool:
        return self._file.exists() and self._file.stat().st_size > self._largest_bytes


def begin(access_log: Path) -> None:
    """A new log that only we may read: it tells who called what. Earlier ones move on."""
    logs.rotate(access_log)
    access_log.touch(mode=0o600)
