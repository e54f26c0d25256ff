"""One readable line out of the long exceptions of exporters and runtimes."""

from __future__ import annotations

import re

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LONGEST = 300
# Headings under which exporters put the sentence that matters.
_HEADINGS = re.compile(r"^(#|=|-|\*|\s*$|failed to |\(refer to |<class )", re.IGNORECASE)


def root_cause(error: BaseException) -> str:
    """The type and first telling line of the error that started it all."""
    # Not __context__: what torch happened to be handling is seldom the reason.
    seen = {id(error)}
    while (cause := error.__cause__) is not None and id(cause) not in seen:
        seen.add(id(cause))
        error = cause
    return f"{type(error).__name__}: {first_line(str(error))}".removesuffix(": ")


def first_line(text: str) -> str:
    """The first line that says something, without colours, cut to a readable length."""
    lines = [line.strip() for line in _ANSI.sub("", text).splitlines()]
    telling = [line for line in lines if not _HEADINGS.match(line)] or [ln for ln in lines if ln]
    line = telling[0] if telling else ""
    if line.endswith(":"):
        line = " ".join([line, *telling[1:2]]).removesuffix(":")
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def last_lines(text: str, count: int = 12) -> str:
    """The end of a log, without colours and empty lines."""
    lines = [line.rstrip() for line in _ANSI.sub("", text).splitlines() if line.strip()]
    return "\n".join(lines[-count:])
