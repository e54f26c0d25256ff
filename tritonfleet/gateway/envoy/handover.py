"""What a fleet and an Envoy that somebody else starts tell each other, as files in their folder.

The fleet says which Envoy it wants; the other side says which one it has, or why it has none. Each
reads what the other has left whenever it came, so that neither must be first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from tritonfleet.gateway.envoy import files
from tritonfleet.gateway.envoy.process import EnvoyOptions
from tritonfleet.gateway.envoy.program import Program

BOOTSTRAP = "bootstrap.json"
_WANTED, _REPORT = "wanted.json", "report.json"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """An Envoy as the fleet wants it; another value is another Envoy."""

    folder: Path
    """As the fleet calls it; what Envoy is configured with holds this path."""
    host: str
    ports: Mapping[str, int]
    concurrency: int
    reads: tuple[Path, ...]
    bootstrap: str
    """The digest of what Envoy begins with."""

    @classmethod
    def of(cls, options: EnvoyOptions) -> Wanted:
        """What the options say, with the files that are in their folder."""
        bootstrap = files.read(options.folder / BOOTSTRAP) or b""
        return cls(
            options.folder,
            options.host,
            dict(options.ports),
            options.concurrency,
            options.reads,
            hashlib.sha256(bootstrap).hexdigest(),
        )

    def options(self, program: Program, state_dir: Path) -> EnvoyOptions:
        """The same for whoever starts it."""
        return EnvoyOptions(
            program=program,
            folder=self.folder,
            state_dir=state_dir,
            host=self.host,
            ports=self.ports,
            concurrency=self.concurrency,
            reads=self.reads,
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What has become of a wish."""

    wanted: Wanted
    cause: str = ""
    """Why there is no such Envoy; empty when there is."""


_WANTED_FILE, _REPORT_FILE = TypeAdapter(Wanted), TypeAdapter(Report)


def want(folder: Path, wanted: Wanted) -> None:
    """Leaves the wish for whoever starts Envoy."""
    files.write(folder / _WANTED, _WANTED_FILE.dump_json(wanted))


def wanted(folder: Path) -> Wanted | None:
    """The wish; None when no fleet has left one."""
    return _read(_WANTED_FILE, folder / _WANTED)


def report(folder: Path, told: Report) -> None:
    """Leaves word for the fleet."""
    files.write(folder / _REPORT, _REPORT_FILE.dump_json(told))


def reported(folder: Path) -> Report | None:
    """What has become of the last wish that somebody has tried to fulfil."""
    return _read(_REPORT_FILE, folder / _REPORT)


def _read(kind: TypeAdapter[_T], file: Path) -> _T | None:
    try:
        return kind.validate_json(files.read(file) or b"")
    except ValidationError:  # there is none, or it is of another release
        return None
