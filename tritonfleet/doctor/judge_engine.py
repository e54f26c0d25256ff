"""Judges a container engine, the toolkit that hands GPUs to its containers, and its images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tritonfleet.doctor.commands import TOOLKIT_GUIDE, TROUBLE_GUIDE, Family, install
from tritonfleet.doctor.facts import Engine, Fit, Image, client_command
from tritonfleet.doctor.findings import Finding, failed, not_needed, ok, warning
from tritonfleet.doctor.needs import Gpus
from tritonfleet.units import format_bytes

_OLDEST_API = (1, 41)
"""Of Docker 20.10: the first that speaks of both versions of control groups."""
_SLOW_STORAGE = ("vfs",)
_OURS = "tritonfleet/"
_CDI_KIND = "nvidia.com/gpu"
_CDI_NAME = re.compile(r"""["']?name["']?:\s*["']?([\w.:-]+)""")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


# -- engine ----------------------------------------------------------------------------------


def judge_engine(engine: Engine, family: Family) -> list[Finding]:
    """Whether it answers us, and can run what we ask of it."""
    if engine.problem:
        return [_unreachable(engine, family)]
    told = f"{engine.kind} {engine.version}, API {engine.api_version}, {engine.storage_driver}, "
    told += engine.cgroup + (", rootless" if engine.rootless else "")
    found = [_by_version(engine, told)]
    if engine.storage_driver in _SLOW_STORAGE:
        found.append(
            warning(
                f"storage driver {engine.storage_driver} copies an image for every container",
                "use overlay2: 'storage-driver' in /etc/docker/daemon.json",
            )
        )
    return [*found, *_no_limits(engine)]


def _by_version(engine: Engine, told: str) -> Finding:
    numbers = tuple(int(part) for part in engine.api_version.split(".") if part.isdigit())
    if numbers < _OLDEST_API:
        wanted = ".".join(map(str, _OLDEST_API))
        return failed(f"{told}: API {wanted} is needed", "upgrade to Docker 20.10 or newer")
    return ok(told)


def _no_limits(engine: Engine) -> list[Finding]:
    lacks = [text for text in engine.warnings if text.startswith("WARNING: No memory limit")]
    if not lacks:
        return []
    steps = "rootless: sudo systemctl edit user@.service, add [Service] Delegate=cpu memory pids"
    return [warning("the engine cannot limit the memory of containers here", steps)]


def _unreachable(engine: Engine, family: Family) -> Finding:
    told = f"{engine.address}: {engine.detail}"
    if engine.problem == "no sdk":
        return failed("the Python package 'docker' is not installed",
                      "pip install 'tritonfleet[container]'")  # fmt: skip
    if engine.problem == "no socket":
        return failed(
            f"no container engine: {told}",
            *install("docker", family),
            "Docker: sudo systemctl enable --now docker",
            "Podman: systemctl --user enable --now podman.socket && "
            "export DOCKER_HOST=unix://$XDG_RUNTIME_DIR/podman/podman.sock",
        )
    if engine.problem == "no permission":
        return failed(
            f"no permission: {told}",
            "sudo usermod -aG docker $USER  # then log in again; this group is as good as root",
            "or run a rootless engine: dockerd-rootless-setuptool.sh install && "
            "export DOCKER_HOST=unix://$XDG_RUNTIME_DIR/docker.sock",
        )
    return failed(f"the engine does not answer: {told}",
                  "sudo systemctl restart docker", "sudo journalctl -u docker -n 50")  # fmt: skip


# -- toolkit ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Toolkit:
    """What of the NVIDIA Container Toolkit is on this machine."""

    version: str | None
    hook: bool
    """Whether Docker finds the program that hands GPUs over."""
    cdi_specs: Mapping[str, str]


def judge_toolkit(
    engine: Engine, toolkit: Toolkit, wishes: Mapping[str, Gpus], family: Family
) -> list[Finding]:
    """Whether the engine can hand GPUs to a container."""
    if not wishes:
        return [not_needed("no server asks for a GPU")]
    if toolkit.version is None and not toolkit.hook and not toolkit.cdi_specs:
        return [
            failed(
                "the NVIDIA Container Toolkit is not installed",
                f"add NVIDIA's package repository: {TOOLKIT_GUIDE}",
                *install("toolkit", family),
                *_configure(engine),
            )
        ]
    if engine.problem:
        return [warning("not known, no engine answers", "see the check 'engine'")]
    if engine.kind == "Podman":
        return _judge_cdi(toolkit, wishes)
    if "nvidia" in engine.runtimes or toolkit.hook:
        told = "the runtime 'nvidia'" if "nvidia" in engine.runtimes else "its hook alone"
        found = ok(f"{toolkit.version or 'NVIDIA Container Toolkit'}: Docker has {told}")
        return [found, *_lost_at_reload(engine)]
    return [failed("Docker does not know the NVIDIA Container Toolkit", *_configure(engine))]


def _lost_at_reload(engine: Engine) -> list[Finding]:
    if not engine.cgroup.endswith("systemd"):
        return []
    found = "with Docker's cgroup driver 'systemd', a daemon-reload can take GPUs from containers"
    return [warning(found, f"restart the fleet after one; see {TROUBLE_GUIDE}")]


def _configure(engine: Engine) -> tuple[str, ...]:
    if engine.kind == "Podman":
        return ("sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",)
    if engine.rootless:
        return (
            "nvidia-ctk runtime configure --runtime=docker "
            "--config=$HOME/.config/docker/daemon.json",
            "systemctl --user restart docker",
            "sudo nvidia-ctk config --set nvidia-container-cli.no-cgroups --in-place",
        )
    return (
        "sudo nvidia-ctk runtime configure --runtime=docker",
        "sudo systemctl restart docker",
    )


def _judge_cdi(toolkit: Toolkit, wishes: Mapping[str, Gpus]) -> list[Finding]:
    generate = "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
    specs = {path: text for path, text in toolkit.cdi_specs.items() if _CDI_KIND in text}
    if not specs:
        found = "there is no specification of NVIDIA devices in /etc/cdi or /var/run/cdi"
        return [failed(f"{found}, and Podman hands GPUs over by nothing else", generate)]
    known = {name for text in specs.values() for name in _CDI_NAME.findall(text)}
    wanted = {gpu for gpus in wishes.values() for gpu in (("all",) if gpus == "all" else gpus)}
    if missing := sorted(wanted - known):
        found = f"{', '.join(missing)} is in none of {', '.join(specs)}"
        return [failed(f"{found}; drivers and MIG devices change, the file does not", generate)]
    return [ok(f"{', '.join(specs)} has {', '.join(sorted(wanted))}")]


# -- images ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageWish:
    """An image that a server will be run from."""

    name: str
    server: str
    pull: str
    fit: Fit


def judge_image(engine: Engine, wish: ImageWish) -> list[Finding]:
    """Whether it is here, for this machine, and fits the repository."""
    if engine.problem:
        return [warning(f"{wish.name}: not known, no engine answers", "see the check 'engine'")]
    image = engine.images.get(wish.name)
    found = _absent(engine, wish) if image is None else _present(engine, image, wish)
    if wish.fit.mismatch:
        return [failed(f"{wish.name}: {wish.fit.mismatch}")]
    return [found, *(warning(f"{wish.name}: {remark}") for remark in wish.fit.remarks)]


def _present(engine: Engine, image: Image, wish: ImageWish) -> Finding:
    machine = _MACHINES.get(engine.architecture, engine.architecture)
    told = f"{wish.name}: {format_bytes(image.size_bytes)}, {image.architecture}"
    told += f", Triton release {wish.fit.release}" if wish.fit.release else ""
    if machine and image.architecture and machine != image.architecture:
        platform = f"--platform=linux/{machine}"
        pull = client_command(engine, "pull", platform, wish.name)
        return failed(f"{told}, and this machine is {machine}", pull)
    return ok(told)


def _absent(engine: Engine, wish: ImageWish) -> Finding:
    if wish.name.startswith(_OURS):
        return failed(f"{wish.name} is not built, and no registry has it", "make image")
    pull = client_command(engine, "pull", wish.name)
    if wish.pull == "never":
        found = f"{wish.name} is not here, and server '{wish.server}' says 'pull: never'"
        return failed(found, pull)
    found = f"{wish.name} is not here: the start of '{wish.server}' will wait until it is fetched"
    return warning(found, pull)
