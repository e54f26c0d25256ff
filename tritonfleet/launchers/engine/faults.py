"""What an engine's refusals mean, and what to do about each. Pure: it asks nobody.

The patterns are the words of Docker 20.10 to 28 and of Podman 4.3, as they were met.
"""

from __future__ import annotations

import re
from pathlib import Path

from tritonfleet.errors import (
    ContainerFailed,
    EngineUnavailable,
    ImageMissing,
    LaunchError,
    PortTaken,
)

_TAKEN = re.compile(
    r"(?P<address>[\d.]+|\[[\da-f:]*\]):(?P<port>\d+)(?:[^\d\s]\S*)?(?: failed)?:.*"
    r"(?:port is already allocated|address already in use)",
    re.DOTALL,
)
_ADVICE = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        (
            r"container name .* is already in use|name .* is in use",
            "It is not one that this fleet made, so it stays: 'docker rename' or 'docker rm' it, "
            "or choose another state_dir.",
        ),
        (
            r"could not select device driver|unknown or invalid runtime|nvidia-container|"
            r"unresolvable CDI|nvidia\.com/gpu",
            "The engine cannot hand over GPUs: install the NVIDIA container toolkit, run "
            "'nvidia-ctk runtime configure --runtime=docker' (Podman: 'nvidia-ctk cdi generate "
            "--output=/etc/cdi/nvidia.yaml') and restart the engine. Check the ids in 'gpus' with "
            "'nvidia-smi -L'.",
        ),
        (
            r"no space left on device",
            "Free some of the engine's disk: 'docker system df' tells what holds it.",
        ),
        (
            r"bind source path does not exist|statfs .*no such file|error mounting",
            "The engine does not see this folder. If it is there, the engine runs on another "
            "machine or in a container, where it must have the same path.",
        ),
        (
            r"executable file not found|no such file or directory.*tritonserver",
            "The image has no tritonserver on its PATH: name another with 'image'.",
        ),
        (
            r"network .* not found|unable to find network",
            "Take one of 'docker network ls' for 'network', or 'host'.",
        ),
        (
            r"rlimit|ulimit",
            "The engine may not raise that limit, or does not know it: change 'ulimits', or set "
            "it to {}.",
        ),
        (r"range of CPUs|requested CPUs", "This machine has fewer cores: see 'cpus' and 'cpuset'."),
        (r"memory limit|cannot allocate memory", "Raise 'memory', or leave it out."),
        (r"shm", "Look at 'shm_size' and 'ipc'."),
    )
)
_LOOK = "The engine's own log may say more."


def refused(container: str, message: str, setting: str) -> LaunchError:
    """What the engine's words about a container mean; ``setting`` chooses its ports."""
    taken = _TAKEN.search(message)
    if taken:
        return PortTaken(taken["address"].strip("[]"), int(taken["port"]), setting)
    hint = next((hint for pattern, hint in _ADVICE if pattern.search(message)), _LOOK)
    return ContainerFailed(container, f"the engine says: {message.strip()}", hint)


def not_pulled(image: str, message: str) -> LaunchError:
    """Why an image could not be fetched."""
    if re.search(r"no space left on device", message):
        hint = "Free some of the engine's disk: 'docker system df' tells what holds it."
    elif re.search(r"unauthorized|denied|authentication", message, re.IGNORECASE):
        hint = "Log in with 'docker login' if it is private, and look at its name."
    elif re.search(r"manifest .*unknown|not found", message, re.IGNORECASE):
        hint = "The registry has no such image or tag: look at its name."
    else:
        hint = (
            "Load it from a machine that reaches the registry ('docker save', 'docker load'), "
            "build one with 'make image', or name another with 'image'."
        )
    return ImageMissing(image, f"it could not be fetched: {message.strip()}", hint)


def unreachable(address: str, error: BaseException) -> EngineUnavailable:
    """Why nobody answers at the engine's address."""
    cause = _root(error)
    if isinstance(cause, FileNotFoundError):
        return EngineUnavailable(address, "there is no such socket", _start(address))
    if isinstance(cause, PermissionError):
        hint = (
            "Add yourself to the group that owns the socket ('sudo usermod -aG docker $USER', then "
            "log in anew), or set 'engine' to that of a rootless engine."
        )
        return EngineUnavailable(address, "this user may not use the socket", hint)
    if isinstance(cause, ConnectionRefusedError):
        return EngineUnavailable(address, "nobody listens there", _start(address))
    if isinstance(cause, TimeoutError) or "timed out" in str(error).lower():
        hint = "Look at its log, or restart it."
        return EngineUnavailable(address, "it does not answer in time", hint)
    return EngineUnavailable(address, str(error), _start(address))


def _root(error: BaseException) -> BaseException:
    """The operating system's error below those of the libraries."""
    seen: list[BaseException] = [error]
    for each in seen:
        if isinstance(each, OSError) and type(each).__module__ == "builtins":
            return each
        below = (*each.args, getattr(each, "reason", None), each.__cause__, each.__context__)
        seen += [one for one in below if isinstance(one, BaseException) and one not in seen]
    return error


def _start(address: str) -> str:
    others = [f"unix://{path}" for path in _usual_sockets() if f"unix://{path}" != address]
    instead = f" Or set 'engine' to {others[0]}." if others else ""
    return f"Start it ('sudo systemctl start docker'), or name another with 'engine'.{instead}"


def _usual_sockets() -> list[Path]:
    fixed = (Path("/var/run/docker.sock"), Path("/run/podman/podman.sock"))
    users = Path("/run/user").glob("*/docker.sock"), Path("/run/user").glob("*/podman/podman.sock")
    return [path for path in (*fixed, *users[0], *users[1]) if path.is_socket()]
