"""Which image a server is run from, and whether it fits the repository and the driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritonfleet.doctor.facts import Fit, Nvidia
from tritonfleet.errors import LaunchError
from tritonfleet.launchers.gpus import Gpus, HostGpu, chosen_gpus
from tritonfleet.launchers.releases import check_repository, image_facts
from tritonfleet.server.releases import (
    RELEASES,
    DriverCheck,
    check_driver,
    numbers,
    official_image,
)
from tritonfleet.settings import Settings
from tritonfleet.spec import ServerSpec


def image_of(server: ServerSpec, settings: Settings) -> str:
    """As the launcher chooses it."""
    named = server.container.image or settings.image
    return named or official_image(settings.triton_release)


def judge_fit(
    server: ServerSpec, settings: Settings, config: Mapping[str, Any], nvidia: Nvidia
) -> Fit:
    """Whether an image can serve the repository, with the driver and the GPUs of this machine.

    Of one that is not here yet, ``config`` is empty, and its name tells what there is to know.
    """
    facts = image_facts(image_of(server, settings), config)
    wanted = server.container.gpus
    gpus = chosen_gpus(_host_gpus(nvidia), wanted) if wanted else ()
    try:
        remarks = check_repository(settings.repository, facts, gpus)
    except LaunchError as error:
        return Fit(facts.release, str(error))
    if not wanted or facts.release is None or nvidia.driver is None:
        return Fit(facts.release, None, remarks)
    if older := _too_old(gpus, facts.release):
        return Fit(facts.release, older, remarks)
    return _with_driver(facts.release, check_driver(nvidia.driver, facts.release), remarks)


def _host_gpus(nvidia: Nvidia) -> Gpus:
    return tuple(
        HostGpu(str(gpu.index), gpu.uuid, gpu.compute_capability, nvidia.driver or "")
        for gpu in nvidia.gpus
        if gpu.compute_capability
    )


def _too_old(gpus: Gpus, release: str) -> str | None:
    known = RELEASES.get(release)
    least = known.compute_capability if known else None
    for gpu in gpus:
        if least and numbers(gpu.compute_capability) < numbers(least):
            return (
                f"release {release} needs a GPU of compute capability {least} or more, and GPU "
                f"{gpu.index} has {gpu.compute_capability}: choose an earlier release"
            )
    return None


def _with_driver(release: str, check: DriverCheck, remarks: tuple[str, ...]) -> Fit:
    if check.level == "error":
        return Fit(release, check.message, remarks)
    told = () if check.level == "ok" else (check.message,)
    return Fit(release, None, (*remarks, *told))
