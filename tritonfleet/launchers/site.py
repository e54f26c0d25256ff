"""What one server that we start has on this machine's disk, whatever runs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

from tritonfleet.errors import LauncherUnavailable
from tritonfleet.launchers.base import LaunchOptions

_Site = TypeVar("_Site", bound="ServerSite")


@dataclass(frozen=True, slots=True)
class ServerSite:
    """Its folder under the state directory, and its log."""

    launcher: ClassVar[str]
    """For errors."""
    options: LaunchOptions
    """With absolute paths: a tritonserver, or what watches it, runs in the folder."""
    folder: Path
    log: Path

    @classmethod
    def of(cls: type[_Site], options: LaunchOptions) -> _Site:
        """Where a server's things lie; LauncherUnavailable without a model repository."""
        state = options.state_dir.resolve()
        options = replace(options, repository=options.repository.resolve(), state_dir=state)
        if not options.repository.is_dir():
            raise LauncherUnavailable(
                cls.launcher,
                f"there is no model repository {options.repository}",
                "'tritonfleet build' makes one.",
            )
        return cls(
            options, state / "servers" / options.name, state / "logs" / f"{options.name}.log"
        )
