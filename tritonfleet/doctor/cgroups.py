"""What the kernel's control groups, of either version, leave to this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 2**60
"""What version 1 tells where there is no limit is larger."""


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """Those we are in, of one version or of both."""

    root: Path = Path("/sys/fs/cgroup")
    own: Path = Path("/proc/self/cgroup")

    def memory_limit(self) -> int | None:
        """Bytes; None where there is no limit."""
        limit = self.smallest("memory", "memory.max", "memory.limit_in_bytes")
        return limit if limit is not None and limit < _UNLIMITED else None

    def cpu_quota(self) -> float | None:
        """How many cores we may keep busy; None where there is no limit."""
        quotas = [quota for folder in self._folders("cpu") if (quota := _quota(folder))]
        return min(quotas, default=None)

    def smallest(self, controller: str, v2: str, v1: str) -> int | None:
        """The smallest number that our group or one above it has in a file, if any has."""
        numbers = [
            number
            for folder in self._folders(controller)
            for file in (v2, v1)
            if (number := read_number(folder / file)) is not None
        ]
        return min(numbers, default=None)

    def _folders(self, controller: str) -> Sequence[Path]:
        """Our own group and those above it, innermost first."""
        for line in read_text(self.own).splitlines():
            _, names, path = line.split(":", 2)
            # Version 2 is the hierarchy without names, and the last that is told.
            mount = self.root / controller if names else self.root
            if not names or controller in names.split(","):
                inner = mount / path.lstrip("/")
                # In a container the path may be the host's, and the mount our own group's.
                return [one for one in (inner, *inner.parents) if one.is_relative_to(mount)]
        return []


def _quota(folder: Path) -> float | None:
    quota, _, period = read_text(folder / "cpu.max").strip().partition(" ")
    quota = quota or read_text(folder / "cpu.cfs_quota_us").strip()
    period = period or read_text(folder / "cpu.cfs_period_us").strip()
    if quota.isdigit() and period.isdigit() and int(period):
        return int(quota) / int(period)
    return None


def read_text(path: Path) -> str:
    """A small file, or '' where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """Of a file that holds one; None where it holds a word, or cannot be read."""
    text = read_text(path).strip()
    return int(text) if text.isdigit() else None
