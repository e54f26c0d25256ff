"""Judges the NVIDIA driver, its GPUs, their MIG slices and the Multi-Process Service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tritonfleet.doctor.commands import GUIDE, Family, install
from tritonfleet.doctor.facts import Mps, Nvidia
from tritonfleet.doctor.findings import Finding, failed, not_needed, ok, warning
from tritonfleet.doctor.needs import Gpus
from tritonfleet.doctor.nvidia import Device, Gpu, find_device
from tritonfleet.units import format_bytes

_MISMATCH = "Driver/library version mismatch"
_LIST = "nvidia-smi -L"


@dataclass(frozen=True, slots=True)
class Wish:
    """What one server asks for."""

    server: str
    gpus: Gpus
    capacity: int
    """Bytes that its models may occupy."""
    mps: bool = False
    """Whether its container shares what a client of the Multi-Process Service needs."""


# -- driver ----------------------------------------------------------------------------------


def judge_driver(nvidia: Nvidia, family: Family, *, wanted: bool) -> list[Finding]:
    """Whether there is a driver that answers; its version is judged with the image."""
    if not wanted:
        return [not_needed(_driver_text(nvidia))]
    if nvidia.driver:
        return [ok(f"driver {nvidia.driver}, {_count(nvidia)}")]
    if nvidia.problem and _MISMATCH in nvidia.problem:
        found = "the driver was upgraded while the old one is still in the kernel"
        return [failed(f"{found}: {nvidia.problem}", "sudo reboot")]
    if nvidia.problem and nvidia.loaded:
        return [failed(f"nvidia-smi: {nvidia.problem}", "sudo reboot",
                       "then, if it says the same: sudo dmesg | grep -i nvrm")]  # fmt: skip
    return [_no_driver(nvidia, family)]


def _driver_text(nvidia: Nvidia) -> str:
    if nvidia.driver:
        return f"driver {nvidia.driver}, {_count(nvidia)}; no server asks for a GPU"
    return "no NVIDIA driver: fine for a fleet on CPUs, no server asks for a GPU"


def _count(nvidia: Nvidia) -> str:
    return f"{len(nvidia.gpus)} GPU{'' if len(nvidia.gpus) == 1 else 's'}"


def _no_driver(nvidia: Nvidia, family: Family) -> Finding:
    if not nvidia.hardware:
        return failed(
            "this machine has no NVIDIA GPU on its PCI bus, and a server asks for one",
            "leave 'gpus' out of the server's 'container' in the fleet file, "
            "or run the fleet where the GPU is",
        )
    found = "an NVIDIA GPU is there, but no driver for it"
    if nvidia.loaded:
        found = "the driver is loaded, but there is no nvidia-smi"
    steps = [*install("driver", family), f"all ways: {GUIDE}", "sudo reboot"]
    if nvidia.nouveau:
        found += ", and nouveau has taken it"
        steps.insert(0, "echo 'blacklist nouveau' | sudo tee /etc/modprobe.d/no-nouveau.conf")
    return failed(found, *steps)


# -- devices ---------------------------------------------------------------------------------


def judge_devices(nvidia: Nvidia, wishes: Iterable[Wish]) -> list[Finding]:
    """Whether what servers ask for exists, has the memory they count on, and is well."""
    wishes = [wish for wish in wishes if wish.gpus]
    if not wishes:
        return [not_needed("no server asks for a GPU")]
    if not nvidia.gpus:
        return [failed("no GPU answers", "see the check 'driver'")]
    handed = [*_whole_machine(nvidia.gpus, wishes), *_by_name(nvidia.gpus, wishes)]
    return [*handed, *(finding for gpu in nvidia.gpus for finding in _health(gpu)), *_xid(nvidia)]


def _whole_machine(gpus: tuple[Gpu, ...], wishes: Iterable[Wish]) -> list[Finding]:
    total = sum(gpu.total_bytes or 0 for gpu in gpus)
    devices = Device(f"all {len(gpus)} GPUs", total, sum(gpu.free_bytes or 0 for gpu in gpus))
    return [_room(devices, [wish]) for wish in wishes if wish.gpus == "all"]


def _by_name(gpus: tuple[Gpu, ...], wishes: Iterable[Wish]) -> list[Finding]:
    sharers: dict[str, tuple[Device, list[Wish]]] = {}
    missing: list[Finding] = []
    for wish in wishes:
        for wanted in wish.gpus if wish.gpus != "all" else ():
            device = find_device(gpus, wanted)
            if device is None:
                missing.append(_missing(wish.server, wanted, gpus))
            else:
                sharers.setdefault(device.name, (device, []))[1].append(wish)
    return [*missing, *(_room(device, users) for device, users in sharers.values())]


def _missing(server: str, wanted: str, gpus: tuple[Gpu, ...]) -> Finding:
    known = ", ".join(name for gpu in gpus for name in _names(gpu))
    return failed(
        f"server '{server}' asks for {wanted}, which is not here. There are: {known}",
        f"take what '{_LIST}' tells; UUIDs of MIG devices change when they are made anew",
    )


def _names(gpu: Gpu) -> list[str]:
    parts = [f"{gpu.index}:{part.index} = {part.uuid or 'MIG'}" for part in gpu.mig_devices]
    return [f"{gpu.index} = {gpu.uuid}", *parts]


def _room(device: Device, users: list[Wish]) -> Finding:
    # A server with several devices may spread its models over them.
    needed = sum(wish.capacity // _devices(wish) for wish in users)
    who = " and ".join(f"'{wish.server}'" for wish in users)
    told = f"{device.name} for {who}: {format_bytes(needed)} asked for"
    if device.total_bytes is None:
        return warning(f"{told}; the device does not tell its memory", _LIST)
    told += f" of {format_bytes(device.total_bytes)}"
    if needed > device.total_bytes:
        return failed(told, f"lower 'capacity' of {who} in the fleet file, or take a larger device")
    if device.free_bytes is not None and needed > device.free_bytes:
        told += f", {format_bytes(device.free_bytes)} free now"
        return warning(told, "nvidia-smi  # lists who holds the rest")
    return ok(told)


def _devices(wish: Wish) -> int:
    return 1 if wish.gpus == "all" else len(wish.gpus)


def _health(gpu: Gpu) -> list[Finding]:
    name, found = f"GPU {gpu.index}", []
    if gpu.repair_pending:
        reset = f"sudo nvidia-smi --gpu-reset -i {gpu.index}  # with nothing running on it"
        found.append(warning(f"{name} waits for a reset to take bad memory out of use", reset))
    if gpu.uncorrectable_errors:
        count = gpu.uncorrectable_errors
        detail = f"nvidia-smi -q -d ECC,ROW_REMAPPER -i {gpu.index}"
        found.append(warning(f"{name} had {count} uncorrectable memory errors", detail))
    if gpu.persistence is False:
        steps = "sudo systemctl enable --now nvidia-persistenced"
        why = "each start of a server waits for the driver's initialisation"
        found.append(warning(f"{name} is not in persistence mode: {why}", steps))
    if gpu.compute_mode == "Prohibited":
        allow = f"sudo nvidia-smi -i {gpu.index} -c DEFAULT"
        found.append(failed(f"{name} is in compute mode Prohibited: nobody may compute", allow))
    if gpu.ecc is False:
        found.append(warning(f"{name} runs without ECC", f"sudo nvidia-smi -i {gpu.index} -e 1"))
    return found


def _xid(nvidia: Nvidia) -> list[Finding]:
    if not nvidia.xids:
        return []
    steps = "what each number means: https://docs.nvidia.com/deploy/xid-errors/"
    return [warning(f"the driver reported errors since the boot, last: {nvidia.xids[-1]}", steps)]


# -- MIG -------------------------------------------------------------------------------------


def judge_mig(nvidia: Nvidia, wishes: Iterable[Wish]) -> list[Finding]:
    """Whether GPUs that are sliced are sliced as servers expect."""
    wishes = [wish for wish in wishes if wish.gpus]
    sliced = [gpu for gpu in nvidia.gpus if gpu.mig or gpu.mig_pending]
    if not wishes or not sliced:
        return [not_needed("no GPU is sliced" if wishes else "no server asks for a GPU")]
    return [_layout(gpu, wishes) for gpu in sliced]


def _layout(gpu: Gpu, wishes: Iterable[Wish]) -> Finding:
    name = f"GPU {gpu.index}, {gpu.name}"
    if gpu.mig_pending is not None and gpu.mig != gpu.mig_pending:
        wish = "on" if gpu.mig_pending else "off"
        reset = f"sudo nvidia-smi --gpu-reset -i {gpu.index}  # with nothing running on it"
        return failed(f"{name}: MIG is to be switched {wish} by a reset that did not come", reset)
    if not gpu.mig_devices:
        return failed(
            f"{name} is in MIG mode, and has no MIG device: nothing can run on it",
            f"sudo nvidia-smi mig -i {gpu.index} -lgip  # which profiles there are",
            f"sudo nvidia-smi mig -i {gpu.index} -cgi 3g.20gb,3g.20gb -C  # for example",
            "they are gone after a reboot: docs/host.md tells how to keep them",
        )
    whole = [wish.server for wish in wishes if {str(gpu.index), gpu.uuid} & set(wish.gpus)]
    if whole:
        parts = ", ".join(f"{part.uuid or part.index}" for part in gpu.mig_devices)
        return failed(
            f"{name} is sliced, and server '{whole[0]}' asks for all of it",
            f"name one of its MIG devices under 'gpus': {parts}",
        )
    layout = ", ".join(_slice(part.profile, part.total_bytes) for part in gpu.mig_devices)
    return ok(f"{name}: {layout}")


def _slice(profile: str | None, size: int | None) -> str:
    told = f" ({format_bytes(size)})" if size is not None else ""
    return f"{profile or 'MIG device'}{told}"


# -- MPS -------------------------------------------------------------------------------------


def judge_mps(nvidia: Nvidia, mps: Mps, wishes: Iterable[Wish]) -> list[Finding]:
    """Whether a device for one process only has the service that lets several use it."""
    wishes = [wish for wish in wishes if wish.gpus]
    if not wishes:
        return [not_needed("no server asks for a GPU")]
    exclusive = [gpu.index for gpu in nvidia.gpus if gpu.compute_mode == "Exclusive_Process"]
    if not mps.daemon:
        return _without_mps(exclusive)
    if not mps.pipe_exists:
        where = "CUDA_MPS_PIPE_DIRECTORY must be the same for the daemon and for its clients"
        found = f"the MPS daemon runs, but not with its pipes in {mps.pipe_directory}"
        return [warning(found, where)]
    outside = [wish.server for wish in wishes if not wish.mps]
    if outside and exclusive:
        return [failed(f"server '{outside[0]}' is no client of the MPS daemon, and its GPU is for "
                       "one process only", *_client_steps(mps))]  # fmt: skip
    return [ok(f"the MPS daemon runs, with its pipes in {mps.pipe_directory}")]


def _without_mps(exclusive: list[int]) -> list[Finding]:
    if not exclusive:
        return [not_needed("no MPS daemon: processes take turns on a GPU")]
    which = ", ".join(map(str, exclusive))
    return [
        warning(
            f"GPU {which} is for one process only, and no MPS daemon runs: models with processes "
            "of their own, and a second server, get no access",
            f"sudo nvidia-smi -i {which.replace(' ', '')} -c DEFAULT  # or, to share it by MPS:",
            "sudo nvidia-cuda-mps-control -d",
        )
    ]


def _client_steps(mps: Mps) -> tuple[str, ...]:
    pipe = mps.pipe_directory
    return (
        "in the server's 'container': ipc: host",
        f"mounts: {{{pipe}: {pipe}}}, environment: {{CUDA_MPS_PIPE_DIRECTORY: {pipe}}}",
        "and the user that the MPS daemon serves; see docs/host.md",
    )


def mps_client(ipc: str, mounts: Mapping[str, str], pipe_directory: str) -> bool:
    """Whether a container shares what a client of the service needs."""
    return ipc == "host" and pipe_directory in mounts
