"""The brain as a process of its own. It ends when its standard input does.

The supervisor speaks on standard input: one line with the order, then wishes. Standard output
carries one line: that it is ready, or why it cannot be. All else goes to standard error.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import BinaryIO

from tritonfleet.brain import Brain
from tritonfleet.errors import FleetError
from tritonfleet.orders import ORDER, REPORT, WISH, Failed, Order, ServerBack, ServerLost, Stop

_LONGEST_LINE = 2**30
"""An order holds the whole fleet file."""
EXIT_FAILED = 1


def main() -> None:
    """Runs until it is told to stop, or until nobody is left who could tell."""
    # Whatever a library prints must not be taken for a report.
    reports = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor says when
    sys.exit(asyncio.run(_run(reports)))


async def _run(reports: BinaryIO) -> int:
    lines = await _standard_input()
    line = await lines.readline()
    if not line:
        return EXIT_FAILED
    order = ORDER.read(line)
    _log_as(order)
    brain = Brain(order)
    try:
        ready = await brain.start()
    except FleetError as error:
        reports.write(REPORT.write(Failed(str(error))))
        return EXIT_FAILED
    reports.write(REPORT.write(ready))
    grace_s = await _obey(brain, lines)
    await brain.stop(grace_s)
    return 0


def _log_as(order: Order) -> None:
    logging.basicConfig(
        level=order.settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def _obey(brain: Brain, lines: asyncio.StreamReader) -> float:
    """Passes on what it is told; how long the end may take once it has come."""
    async for line in _until_end(lines):
        wish = WISH.read(line)
        if isinstance(wish, ServerLost):
            await brain.server_lost(wish.name)
        elif isinstance(wish, ServerBack):
            await brain.server_back(wish.link)
        elif isinstance(wish, Stop):
            return wish.grace_s
    return 0.0  # the supervisor has died, and with it everything that could be served


async def _until_end(lines: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while line := await lines.readline():
        yield line
