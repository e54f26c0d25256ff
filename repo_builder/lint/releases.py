"""Which ONNX Runtime a release of Triton brings."""

from __future__ import annotations

from repo_builder.compatibility import RELEASES, Release

_OF_TRITON = tuple(release for release in RELEASES if release.triton is not None)
NEWEST = RELEASES[-1]


def onnx_runtime_of(triton: str) -> Release:
    """The ONNX Runtime of a Triton such as '24.10'; ValueError for one not known."""
    wanted = _month(triton)
    found = [release for release in _OF_TRITON if _month(release.triton or "") <= wanted]
    if not found:
        oldest = _OF_TRITON[0].triton
        raise ValueError(f"'{triton}' is older than {oldest}, the oldest known")
    return found[-1]


def _month(triton: str) -> tuple[int, int]:
    year, _, month = triton.partition(".")
    if not (year.isdecimal() and month.isdecimal() and 1 <= int(month) <= 12):
        raise ValueError(f"'{triton}' is no release of Triton; write it as 24.10")
    return int(year), int(month)
