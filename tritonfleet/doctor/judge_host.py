"""Judges ports, disks, memory, cores and limits of the host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tritonfleet.doctor.facts import Disk, Limits, Memory, PortState
from tritonfleet.doctor.findings import Finding, failed, not_needed, ok, warning
from tritonfleet.spec import ServerSpec
from tritonfleet.units import format_bytes

_MIB = 2**20
_GIB = 2**30
INSTANCE_SHM = _MIB
"""Of shared memory for each instance with a process of its own, before any large tensor."""
_SHM_SPARE = 64 * _MIB
_STATE_LEAST, _STATE_SPARE = 64 * _MIB, _GIB
_IMAGES_SPARE = 20 * _GIB
"""NVIDIA's image with its layers, while it is unpacked."""
SERVER_ITSELF = 300 * _MIB
"""Of memory for a tritonserver without models, with what its libraries take."""
_OPEN_FILES, _INOTIFY_INSTANCES, _INOTIFY_WATCHES, _PIDS = 4096, 16, 1024, 1024
_FIRST_FREE_PORT = 1024


# -- ports and addresses ---------------------------------------------------------------------


def judge_ports(states: Iterable[PortState]) -> list[Finding]:
    """Whether everything that listens on a fixed port can."""
    found = [_port(state) for state in states]
    return found or [not_needed("all ports are picked when the fleet starts")]


def _port(state: PortState) -> Finding:
    port = state.port
    told = f"{port.host}:{port.number} ({port.purpose})"
    if state.error is None:
        return ok(f"{told} is free")
    choose = f"choose another with {port.setting}"
    if state.owner:
        return failed(f"{told} is taken by {state.owner}", f"stop it, or {choose}")
    if port.number < _FIRST_FREE_PORT and "ermission" in state.error:
        allow = "sudo sysctl -w net.ipv4.ip_unprivileged_port_start=80"
        return failed(f"{told}: {state.error}", choose, f"or allow it: {allow}")
    look = f"sudo ss -ltnp 'sport = :{port.number}'"
    return failed(f"{told}: {state.error}", look, choose)


@dataclass(frozen=True, slots=True)
class Attached:
    """An address of a server that runs already."""

    server: str
    address: str
    error: str | None


def judge_attached(addresses: Iterable[Attached]) -> list[Finding]:
    """Whether somebody listens where servers are said to run."""
    found = [_attached(one) for one in addresses]
    return found or [not_needed("no server runs already")]


def _attached(one: Attached) -> Finding:
    told = f"server '{one.server}' at {one.address}"
    if one.error is None:
        return ok(f"{told} listens")
    return failed(f"{told}: {one.error}", "start it first, or correct its address")


# -- disks -----------------------------------------------------------------------------------


def judge_state(disk: Disk) -> Finding:
    """Whether logs, footprints and pins have room."""
    told = f"state directory {disk.path}: {format_bytes(disk.free_bytes)} free"
    if not disk.writable:
        return failed(f"{told}, and we may not write there",
                      f"sudo install -d -o $USER {disk.path}  # or --state-dir")  # fmt: skip
    if disk.free_bytes < _STATE_LEAST:
        return failed(told, "make room, or choose another disk with --state-dir")
    if disk.free_bytes < _STATE_SPARE:
        return warning(f"{told}; logs may fill it", "make room, or --access-log notable")
    return ok(told)


def judge_root_folder(disk: Disk, *, complete: bool) -> Finding:
    """Whether images that are yet to come fit on the engine's disk."""
    told = f"engine's {disk.path}: {format_bytes(disk.free_bytes)} free"
    if not complete and disk.free_bytes < _IMAGES_SPARE:
        return warning(f"{told}; NVIDIA's image needs about {format_bytes(_IMAGES_SPARE)} "
                       "while it is unpacked", "docker system df")  # fmt: skip
    return ok(told)


def judge_shared_memory(disk: Disk, instances: int, servers: Iterable[ServerSpec]) -> list[Finding]:
    """Whether instances that run in processes of their own can talk to their server."""
    needed = instances * INSTANCE_SHM + _SHM_SPARE
    shared = [server for server in servers if _uses_hosts(server)]
    found = [_hosts_shm(disk, needed, instances)] if shared else []
    for server in servers:
        if server.launcher == "container" and server.container.ipc == "private":
            found.append(_own_shm(server, needed, instances))
    return found or [not_needed("no server of ours runs on this machine")]


def _uses_hosts(server: ServerSpec) -> bool:
    shares = server.launcher == "container" and server.container.ipc == "host"
    return shares or server.launcher not in ("container", "external")


def _hosts_shm(disk: Disk, needed: int, instances: int) -> Finding:
    told = f"{disk.path}: {format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free"
    told += f", {instances} instances take up to {format_bytes(needed)} and more for large tensors"
    if disk.free_bytes < needed:
        return warning(told, f"sudo mount -o remount,size=2G {disk.path}",
                       "in a container: its --shm-size")  # fmt: skip
    return ok(told)


def _own_shm(server: ServerSpec, needed: int, instances: int) -> Finding:
    size = server.container.shm_size
    told = f"server '{server.name}': shm_size {format_bytes(size)}, instances: {instances}"
    if size < needed:
        raise_it = f"container: shm_size: {format_bytes(needed)} for it in the fleet file"
        return warning(f"{told}, which take up to {format_bytes(needed)}", raise_it)
    return ok(told)


# -- memory and cores ------------------------------------------------------------------------


def judge_memory(memory: Memory, servers: Iterable[ServerSpec]) -> list[Finding]:
    """Whether what models may occupy is there."""
    servers = tuple(servers)
    if not servers:
        return [not_needed("no server's models live in this machine's memory")]
    needed = sum(server.capacity + SERVER_ITSELF for server in servers)
    found = [_against_host(memory, needed)]
    found += [_against_own(server) for server in servers if server.container.memory is not None]
    if memory.swap_used_bytes > _GIB:
        found.append(
            warning(
                f"{format_bytes(memory.swap_used_bytes)} are swapped out; a model's process that "
                "stalls for a second can end its server",
                "sudo sysctl -w vm.swappiness=1, or lower the capacity of servers",
            )
        )
    return found


def _against_host(memory: Memory, needed: int) -> Finding:
    limit = memory.limit_bytes if memory.limit_bytes is not None else memory.total_bytes
    most = min(limit, memory.total_bytes)
    told = f"servers take up to {format_bytes(needed)} of {format_bytes(most)}"
    if needed > most:
        where = "this control group's limit" if most < memory.total_bytes else "this machine"
        lower = "lower the capacity of servers in the fleet file, or give them more"
        return failed(f"{told}, all that {where} has", lower)
    if needed > memory.available_bytes:
        told += f", and {format_bytes(memory.available_bytes)} are available now"
        return warning(told, "ps -eo rss,pid,comm --sort=-rss | head  # who holds the rest")
    return ok(told)


def _against_own(server: ServerSpec) -> Finding:
    limit = server.container.memory or 0
    needed = server.capacity + SERVER_ITSELF
    told = f"server '{server.name}': container limit {format_bytes(limit)}, "
    told += f"capacity {format_bytes(server.capacity)}"
    raise_it = f"container: memory: {format_bytes(needed)} or more for it in the fleet file"
    if limit <= server.capacity:
        return failed(f"{told}: the kernel would end it before it is full", raise_it)
    if limit < needed:
        return warning(f"{told}: little is left for the server itself", raise_it)
    return ok(told)


def judge_cores(cores: float, most_instances: int, servers: Iterable[ServerSpec]) -> list[Finding]:
    """Whether what is to run side by side can."""
    found = [_instances(cores, most_instances)]
    for server in servers:
        asked = server.container.cpus if server.launcher == "container" else None
        if asked is not None and asked > cores:
            told = f"server '{server.name}' asks for {asked:g} cores, and there are {cores:g}"
            found.append(failed(told, "lower 'cpus' of its container: the engine refuses it"))
    return found


def _instances(cores: float, most_instances: int) -> Finding:
    told = f"{cores:g} cores, at most {most_instances} of one model's instances"
    if most_instances > cores:
        return warning(f"{told}: on CPUs they wait for each other", "lower 'instance_group: count'")
    return ok(told)


# -- limits ----------------------------------------------------------------------------------


def judge_limits(limits: Limits) -> list[Finding]:
    """Whether the kernel lets us open, watch and start as much as a busy fleet does."""
    checks = (
        ("open files", limits.open_files, _OPEN_FILES,
         f"ulimit -n {limits.open_files_hard or 65536}  # systemd: LimitNOFILE="),
        ("inotify instances", limits.inotify_instances, _INOTIFY_INSTANCES,
         "sudo sysctl -w fs.inotify.max_user_instances=512"),
        ("inotify watches", limits.inotify_watches, _INOTIFY_WATCHES,
         "sudo sysctl -w fs.inotify.max_user_watches=65536"),
        ("processes and threads", limits.pids, _PIDS, "systemd: TasksMax=infinity"),
    )  # fmt: skip
    found = [
        warning(f"{what}: {limit}, and {least} is little enough", advice)
        for what, limit, least, advice in checks
        if limit is not None and limit < least
    ]
    return found or [ok(f"open files {_told(limits.open_files)}, processes {_told(limits.pids)}")]


def _told(limit: int | None) -> str:
    return "unlimited" if limit is None else str(limit)


def judge_service(stop_timeout_s: float | None, stop_grace_s: float, drain_s: float) -> Finding:
    """Whether systemd lets a fleet stop in its own time."""
    if stop_timeout_s is None:
        return not_needed("no systemd unit 'tritonfleet.service', or it waits for ever")
    needed = stop_grace_s + drain_s
    told = f"systemd ends the fleet after {stop_timeout_s:g} s, which may take {needed:g} s to stop"
    if stop_timeout_s <= needed:
        edit = f"sudo systemctl edit tritonfleet, add [Service] TimeoutStopSec={needed + 30:g}"
        return warning(told, edit)
    return ok(told)
