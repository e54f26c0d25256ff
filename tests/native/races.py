"""Reads what the thread sanitizer reports, and keeps what is ours.

Neither Triton's core nor ONNX Runtime is instrumented: what they order among themselves with
atomics is invisible, so accesses that both sides of a report make inside them are no finding. The
sanitizer's own suppressions cannot tell that: they match any frame of a stack, and every call of
the backend comes from Triton.
"""

from __future__ import annotations

import re

_REPORT = re.compile(r"WARNING: ThreadSanitizer: .*?(?=\n={18}|\Z)", re.DOTALL)
_STACK = re.compile(r"^  \S.*:\n((?:    #\d+ .*\n)+)", re.MULTILINE)
_FRAME = re.compile(r"^    #\d+ (.*)$", re.MULTILINE)
# These only pass on: whoever called them made the access.
_FORWARDING = re.compile(r"\(libtsan\.so|/tests/allocation\.cc|\(libstdc\+\+\.so|\(libc\.so")
_OURS = re.compile(r"\((?:libtriton_onnxruntime\.so|triton_host)\+")
# Where thread-locals lie goes when their thread has ended; the sanitizer does not see that it has.
_END_OF_THREAD = re.compile(r"_dl_deallocate_tls")
_ACCESSES = 2


def our_races(output: str) -> list[str]:
    """The reports in which one of the two accesses was made by our own code."""
    return [report for report in _REPORT.findall(output) if _is_ours(report)]


def _is_ours(report: str) -> bool:
    stacks = _STACK.findall(report)[:_ACCESSES]
    if any(_END_OF_THREAD.search(stack) for stack in stacks):
        return False
    return any(_OURS.search(_accessor(stack)) for stack in stacks)


def _accessor(stack: str) -> str:
    frames: list[str] = _FRAME.findall(stack)
    return next((frame for frame in frames if not _FORWARDING.search(frame)), "")
