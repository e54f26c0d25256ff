"""The checks by name: each asks the machine, and has the answer judged."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tritonfleet.doctor import judge_devices, judge_engine, judge_host, judge_software
from tritonfleet.doctor.commands import install
from tritonfleet.doctor.engine import ask_engine
from tritonfleet.doctor.facts import Engine, client_command
from tritonfleet.doctor.findings import Finding, failed, not_needed, ok, warning
from tritonfleet.doctor.images import image_of, judge_fit
from tritonfleet.doctor.machine import Machine
from tritonfleet.doctor.needs import Needs
from tritonfleet.errors import EnvoyMissing, InvalidAccess, LaunchError, LauncherUnavailable
from tritonfleet.gateway.access_plan import read_access
from tritonfleet.gateway.envoy.program import find_program
from tritonfleet.launchers.container.recipe import container_name, container_user
from tritonfleet.launchers.container.site import check_readable
from tritonfleet.launchers.engine.facts import EngineFacts, address_of
from tritonfleet.launchers.wheel import find_wheel
from tritonfleet.server.layout import published_models
from tritonfleet.spec import ServerSpec
from tritonfleet.spec.references import read_header

_DISTRIBUTION = "tritonfleet"
_UNIT = "tritonfleet.service"
Check = Callable[[Needs, Machine], list[Finding]]


# -- GPUs ------------------------------------------------------------------------------------


def _wishes(needs: Needs, machine: Machine) -> list[judge_devices.Wish]:
    pipe = str(machine.mps.pipe_directory)
    return [
        judge_devices.Wish(
            server.name,
            server.container.gpus,
            server.capacity,
            judge_devices.mps_client(server.container.ipc, server.container.mounts, pipe),
        )
        for server in needs.containers
    ]


def _driver(needs: Needs, machine: Machine) -> list[Finding]:
    return judge_devices.judge_driver(machine.nvidia, machine.family, wanted=bool(needs.gpus))


def _devices(needs: Needs, machine: Machine) -> list[Finding]:
    return judge_devices.judge_devices(machine.nvidia, _wishes(needs, machine))


def _mig(needs: Needs, machine: Machine) -> list[Finding]:
    return judge_devices.judge_mig(machine.nvidia, _wishes(needs, machine))


def _mps(needs: Needs, machine: Machine) -> list[Finding]:
    return judge_devices.judge_mps(machine.nvidia, machine.mps, _wishes(needs, machine))


# -- containers ------------------------------------------------------------------------------


def _engines(needs: Needs) -> dict[str, tuple[str, ...]]:
    """The engines that are asked, with the images that each should have."""
    wanted: dict[str, list[str]] = {}
    for server in needs.containers:
        images = wanted.setdefault(address_of(server.container.engine), [])
        images.append(image_of(server, needs.settings))
    if needs.envoy_image:
        wanted.setdefault(address_of(None), []).append(needs.envoy_image)
    return {address: tuple(dict.fromkeys(images)) for address, images in wanted.items()}


def _engine(needs: Needs, machine: Machine) -> list[Finding]:
    if not needs.uses_engine:
        return [not_needed("nothing of this fleet runs in a container of ours")]
    found = []
    for address in _engines(needs):
        found += judge_engine.judge_engine(ask_engine(address), machine.family)
    return found


def _toolkit(needs: Needs, machine: Machine) -> list[Finding]:
    if not needs.gpus:
        return [not_needed("no server asks for a GPU")]
    toolkit = judge_engine.Toolkit(machine.toolkit_version, machine.toolkit_hook, machine.cdi_specs)
    engines = {address_of(server.container.engine) for server in needs.containers}
    found = []
    for address in sorted(engines):
        wishes = {
            server.name: server.container.gpus
            for server in needs.containers
            if address_of(server.container.engine) == address and server.container.gpus
        }
        found += judge_engine.judge_toolkit(ask_engine(address), toolkit, wishes, machine.family)
    return found


def _images(needs: Needs, machine: Machine) -> list[Finding]:
    if not needs.containers:
        return [not_needed("no server runs in a container of ours")]
    engines = {address: ask_engine(address, images) for address, images in _engines(needs).items()}
    found = []
    for server in needs.containers:
        engine = engines[address_of(server.container.engine)]
        found += _image(engine, server, needs, machine)
    return found


def _image(engine: Engine, server: ServerSpec, needs: Needs, machine: Machine) -> list[Finding]:
    name = image_of(server, needs.settings)
    image = engine.images.get(name)
    config = image.config if image else {}
    fit = judge_fit(server, needs.settings, config, machine.nvidia)
    wish = judge_engine.ImageWish(name, server.name, server.container.pull, fit)
    return judge_engine.judge_image(engine, wish)


# -- host ------------------------------------------------------------------------------------


def _ports(needs: Needs, machine: Machine) -> list[Finding]:
    return judge_host.judge_ports(machine.port(port) for port in needs.ports)


def _attached(needs: Needs, machine: Machine) -> list[Finding]:
    addresses = [
        judge_host.Attached(server.name, address, machine.answers(address))
        for server in needs.launched_by("external")
        for address in (server.http_url, server.grpc_url, server.metrics_url)
        if address
    ]
    return judge_host.judge_attached(addresses)


def _access(needs: Needs, machine: Machine) -> list[Finding]:
    found = [failed(str(error)) for error in _unusable(needs)]
    references = bool(needs.access.tenants or needs.access.tls or needs.access.jwt)
    references |= any(server.admin_secret for server in needs.servers)
    if not references:
        return [not_needed("the fleet file refers to no key and no certificate")]
    return found or [ok("all keys and certificates of the fleet file can be used")]


def _unusable(needs: Needs) -> Iterator[InvalidAccess]:
    try:
        read_access(needs.access, needs.folder)
    except InvalidAccess as error:
        yield error
    for server in needs.launched_by("external"):
        if server.admin_secret:
            try:
                what = f"the admin secret of server '{server.name}'"
                read_header(what, server.admin_secret, needs.folder)
            except InvalidAccess as error:
                yield error


def _disk(needs: Needs, machine: Machine) -> list[Finding]:
    found = [judge_host.judge_state(machine.disk(needs.settings.state_dir.resolve()))]
    for address, images in _engines(needs).items():
        engine = ask_engine(address, images)
        if engine.here and engine.root_folder:
            complete = len(engine.images) == len(images)
            disk = machine.disk(Path(engine.root_folder))
            found.append(judge_host.judge_root_folder(disk, complete=complete))
    return found


def _shared_memory(needs: Needs, machine: Machine) -> list[Finding]:
    return judge_host.judge_shared_memory(
        machine.disk(Path("/dev/shm")),  # noqa: S108 - the place itself, not a file in it
        needs.instances,
        needs.servers,
    )


def _memory(needs: Needs, machine: Machine) -> list[Finding]:
    return judge_host.judge_memory(machine.memory, needs.on_host_memory)


def _cores(needs: Needs, machine: Machine) -> list[Finding]:
    return judge_host.judge_cores(machine.cores, needs.most_instances, needs.servers)


def _limits(needs: Needs, machine: Machine) -> list[Finding]:
    return judge_host.judge_limits(machine.limits)


def _service(needs: Needs, machine: Machine) -> list[Finding]:
    settings = needs.settings
    timeout_s = machine.unit_stop_timeout_s(_UNIT)
    return [judge_host.judge_service(timeout_s, settings.stop_grace_s, settings.drain_timeout_s)]


# -- software --------------------------------------------------------------------------------


def _python(needs: Needs, machine: Machine) -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if not needs.launched_by("embedded"):
        return [ok(f"Python {version}")]
    try:
        wheel = find_wheel()
    except LauncherUnavailable as error:
        short = ".".join(map(str, sys.version_info[:2]))
        steps = install("libpython", machine.family, version=short)
        return [
            failed(f"Python {version}: {error}", *(steps if "libpython" in error.cause else ()))
        ]
    return [ok(f"Python {version}, with {wheel.libpython} and {wheel.tritonserver}")]


def _packages(needs: Needs, machine: Machine) -> list[Finding]:
    texts = importlib.metadata.requires(_DISTRIBUTION) or []
    requirements = [judge_software.parse_requirement(text) for text in texts]
    found = importlib.metadata.distributions()
    installed = {judge_software.canonical(one.name): one.version for one in found}
    return judge_software.judge_packages(requirements, _extras(needs), installed)


def _extras(needs: Needs) -> frozenset[str]:
    own_envoy = needs.settings.envoy is None and not needs.settings.attached_envoy
    asked = {
        "embedded": bool(needs.launched_by("embedded")),
        "container": bool(needs.containers),
        "envoy": own_envoy,
    }
    return frozenset(extra for extra, wanted in asked.items() if wanted)


def _envoy(needs: Needs, machine: Machine) -> list[Finding]:
    if needs.settings.attached_envoy:
        return [not_needed("'tritonfleet envoy' runs it")]
    if needs.envoy_image:
        engine = ask_engine(address_of(None), (needs.envoy_image,))
        if needs.envoy_image not in engine.images:
            pull = client_command(engine, "pull", needs.envoy_image)
            return [warning(f"{needs.envoy_image} is not here, and is fetched at the start", pull)]
    try:
        program = asyncio.run(find_program(needs.settings.envoy))
    except EnvoyMissing as error:
        return [failed(str(error))]
    return [ok(str(program))]


def _repository(needs: Needs, machine: Machine) -> list[Finding]:
    path = needs.settings.repository
    found = judge_software.Repository(
        path,
        path.is_dir(),
        frozenset(published_models(path)),
        tuple(_unreadable(needs)) if path.is_dir() else (),
    )
    return judge_software.judge_repository(found, needs.models)


def _unreadable(needs: Needs) -> Iterator[str]:
    for server in needs.containers:
        engine = ask_engine(address_of(server.container.engine))
        facts = EngineFacts(podman=engine.kind == "Podman", rootless=engine.rootless)
        user = container_user(server.container.user, os.getuid(), os.getgid(), facts)
        try:
            name = container_name(server.name, needs.settings.state_dir)
            check_readable(name, needs.settings.repository.resolve(), user)
        except LaunchError as error:
            yield str(error)


CHECKS: dict[str, Check] = {
    "driver": _driver,
    "devices": _devices,
    "mig": _mig,
    "mps": _mps,
    "engine": _engine,
    "toolkit": _toolkit,
    "images": _images,
    "attached": _attached,
    "access": _access,
    "ports": _ports,
    "disk": _disk,
    "shared-memory": _shared_memory,
    "memory": _memory,
    "cores": _cores,
    "limits": _limits,
    "service": _service,
    "python": _python,
    "packages": _packages,
    "envoy": _envoy,
    "repository": _repository,
}
