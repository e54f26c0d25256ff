"""Asks a container engine what it is and which images it has. The one module here that knows it."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from tritonfleet.doctor.facts import Engine, Image
from tritonfleet.launchers.engine.facts import is_podman

_ASKS_S = 10.0
_SOCKET = "unix://"


def ask_engine(address: str, images: tuple[str, ...] = ()) -> Engine:
    """What there is at an address; never raises for what an engine may do."""
    if unreachable := _unreachable(address):
        return unreachable
    try:
        docker = importlib.import_module("docker")
    except ImportError as error:
        return Engine(address, "no sdk", str(error))
    try:
        # Certificates for an engine elsewhere are in the environment, as for Docker's own client.
        options = {**docker.utils.kwargs_from_env(), "base_url": address}
        client = docker.DockerClient(**options, timeout=_ASKS_S)
        try:
            return _describe(docker, client, address, images)
        finally:
            client.close()
    except (docker.errors.DockerException, OSError) as error:
        return Engine(address, "no answer", str(error))


def _unreachable(address: str) -> Engine | None:
    """What keeps us from a socket, told before anything is asked of the engine behind it."""
    if not address.startswith(_SOCKET):
        return None
    socket = Path(address.removeprefix(_SOCKET))
    try:
        socket.stat()
    except PermissionError:
        return Engine(address, "no permission", f"we may not enter the folder of {socket}")
    except OSError as error:
        return Engine(address, "no socket", f"{socket}: {error.strerror}")
    if os.access(socket, os.R_OK | os.W_OK):
        return None
    return Engine(address, "no permission", f"{socket} belongs to {_owner(socket)}")


def _owner(socket: Path) -> str:
    try:
        return f"{socket.owner()}:{socket.group()}"
    except (OSError, KeyError):
        return "somebody else"


def _describe(docker: Any, client: Any, address: str, images: tuple[str, ...]) -> Engine:
    version, info = client.version(), client.info()
    found = {name: image for name in images if (image := _image(docker, client, name))}
    return Engine(
        address=address,
        kind="Podman" if is_podman(version) else "Docker",
        version=str(version.get("Version", "?")),
        api_version=str(version.get("ApiVersion", "?")),
        storage_driver=str(info.get("Driver", "?")),
        cgroup=f"cgroup v{info.get('CgroupVersion', '1')}, {info.get('CgroupDriver', '?')}",
        runtimes=tuple(info.get("Runtimes") or ()),
        root_folder=str(info.get("DockerRootDir") or ""),
        rootless=any("rootless" in option for option in info.get("SecurityOptions") or ()),
        architecture=str(info.get("Architecture", "")),
        warnings=tuple(info.get("Warnings") or ()),
        images=found,
    )


def _image(docker: Any, client: Any, name: str) -> Image | None:
    try:
        details = client.images.get(name).attrs
    except docker.errors.NotFound:
        return None
    size, config = int(details.get("Size", 0)), details.get("Config") or {}
    return Image(size, str(details.get("Architecture", "")), config)
