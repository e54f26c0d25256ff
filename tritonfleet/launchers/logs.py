"""One server's log file: earlier runs kept beside it, its end for error messages."""

from __future__ import annotations

from pathlib import Path

_KEPT = 3
_TAIL_BYTES = 64 * 1024


def rotate(log: Path) -> None:
    """Makes way for a new run: ``x.log`` becomes ``x.log.1`` and so on; three are kept."""
    log.parent.mkdir(parents=True, exist_ok=True)
    for number in range(_KEPT, 0, -1):
        earlier = log.with_name(f"{log.name}.{number - 1}") if number > 1 else log
        if earlier.exists():
            earlier.replace(log.with_name(f"{log.name}.{number}"))


def tail(log: Path, lines: int, start: int = 0) -> str:
    """The last lines written after byte ``start``; empty when there is no log."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(start, size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return "\n".join(text.rstrip("\n").split("\n")[-lines:])
