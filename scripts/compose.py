"""Brings a fleet up in containers with Docker Compose, and takes it down without a trace.

What ``make up`` and ``make down`` run; all but ``up`` with any Python from 3.10 and its standard
library only. The services are deploy/compose.yaml's, which also works without this script: here it
is told what the fleet file says, ports are tried before anything starts, and a failed start is
explained and cleared away.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))
import images

if TYPE_CHECKING:
    from tritonfleet.spec import FleetSpec

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
OVERHEAD_BYTES = 2**30
"""Of a tritonserver beside the memory for models: itself, shared memory, uploads."""
OPEN_FILES = 65_536
CONTAINER_USER = 1000
LOG_LINES = 30
_LOOPBACK = "127.0.0.1"
_PROMETHEUS = "tritonfleet/prometheus:latest"
_PROJECT_LABEL = "com.docker.compose.project"
_SERVICE_LABEL = "com.docker.compose.service"
_OLDEST_COMPOSE = 2
PATIENCE_S = 180.0
"""For a service to be well: it may wait a minute for each of two others."""
RESTARTS = 3
"""What has ended so often will not run."""
_POLL_S = 0.3
_ILL = ("running", "unhealthy")


class ComposeFailed(Exception):
    """Why nothing runs, and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the first argument says; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("up", "down", "logs", "ps"))
    parser.add_argument("--fleet", type=Path, default=ROOT / "triton_configs" / "demo.yaml")
    parser.add_argument("--gpu", default="", help="Index or UUID of a GPU or MIG device.")
    options = parser.parse_args(arguments)
    try:
        _act(options)
    except ComposeFailed as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _act(options: argparse.Namespace) -> None:
    engine = find_engine()
    if options.action == "up":
        spec = read_fleet(options.fleet)
        variables = fleet_variables(options.fleet, spec)
        up(Project.of(engine, options.gpu, variables), spec)
    elif options.action == "down":
        down(Project.of(engine, options.gpu, {}))
    else:
        follow = ["--follow", "--tail=100"] if options.action == "logs" else []
        Project.of(engine, options.gpu, {}).shown(options.action, *follow)


# -- the engine and its Compose ------------------------------------------------------------------


def find_engine() -> str:
    """The client of a container engine that answers."""
    try:
        return images.find_engine(os.environ)
    except images.ImageFailed as error:
        raise ComposeFailed(f"{error} Or run without containers: 'make serve'.") from error


def find_compose(engine: str) -> list[str]:
    """The command for Compose 2 or later."""
    said = ""
    for command in ([engine, "compose"], ["docker-compose"]):
        answer = ran([*command, "version", "--short"]) if shutil.which(command[0]) else None
        if answer is not None and answer.returncode == 0:
            said = last_line(answer.stdout).lstrip("v")
            if said.partition(".")[0].isdigit() and int(said.partition(".")[0]) >= _OLDEST_COMPOSE:
                return command
    cause = f"Docker Compose {said} is too old" if said else "there is no Docker Compose"
    raise ComposeFailed(
        f"{cause}. Install Compose 2: package docker-compose-plugin (Docker's own), "
        "docker-compose-v2 (Ubuntu) or docker-compose (Debian 13)."
    )


@dataclass(frozen=True)
class Part:
    """One container of the project, as the engine sees it."""

    container: str
    service: str
    status: str
    health: str
    restarts: int

    @property
    def is_well(self) -> bool:
        """Whether it runs and answers."""
        return self.status == "running" and self.health == "healthy"

    def has_failed(self, restarts_before: int) -> bool:
        """Whether waiting is in vain."""
        # Between two restarts Docker calls it unhealthy, too.
        ill = self.status in ("exited", "dead") or (self.status, self.health) == _ILL
        return ill or self.restarts - restarts_before >= RESTARTS


@dataclass(frozen=True)
class Project:
    """The services of deploy/compose.yaml, as this engine and these variables make them."""

    engine: str
    command: tuple[str, ...]
    variables: Mapping[str, str]
    config: Mapping[str, Any]

    @classmethod
    def of(cls, engine: str, gpu: str, variables: Mapping[str, str]) -> Project:
        """Reads the files; ComposeFailed if they, or what the user has set, make no sense."""
        if gpu:
            variables = {**variables, "GPU": gpu}
        files = ["compose.yaml", *(["compose.gpu.yaml"] if gpu else [])]
        where = [part for name in files for part in ("--file", str(DEPLOY / name))]
        command = [*find_compose(engine), *where]
        said = ran([*command, "config", "--format", "json"], variables)
        if said.returncode != 0:
            raise ComposeFailed(f"deploy/{files[-1]} cannot be used: {last_line(said.stderr)}")
        return cls(engine, tuple(command), variables, json.loads(said.stdout))

    @property
    def name(self) -> str:
        """What all that belongs to it is labelled with."""
        return str(self.config["name"])

    @property
    def repository(self) -> Path:
        """The folder of models on this machine."""
        volumes = self.config["services"]["server"]["volumes"]
        return Path(next(each["source"] for each in volumes if each["target"] == "/models"))

    def value(self, service: str, variable: str) -> str:
        """What a service finds in its environment."""
        return str(self.config["services"][service]["environment"][variable])

    def shown(self, *arguments: str) -> int:
        """Runs Compose for people to see; its exit status."""
        environment = {**os.environ, **self.variables}
        return subprocess.run([*self.command, *arguments], env=environment, check=False).returncode

    def asked(self, *arguments: str) -> str:
        """What Compose says to standard output."""
        return ran([*self.command, *arguments], self.variables).stdout

    def parts(self) -> list[Part]:
        """Its containers, whatever they do."""
        names = self.asked("ps", "--all", "--quiet").split()
        answer = ran([self.engine, "inspect", *names]) if names else None
        found = json.loads(answer.stdout) if answer and answer.returncode == 0 else []
        return [
            Part(
                one["Name"].lstrip("/"),
                one["Config"]["Labels"][_SERVICE_LABEL],
                one["State"]["Status"],
                one["State"].get("Health", {}).get("Status", "healthy"),
                one["RestartCount"],
            )
            for one in found
        ]

    def present(self) -> dict[str, list[str]]:
        """The names of its containers, volumes and networks that exist."""
        label = f"label={_PROJECT_LABEL}={self.name}"
        kinds = {
            "containers": ["ps", "--all", "--format", "{{.Names}}"],
            "volumes": ["volume", "ls", "--format", "{{.Name}}"],
            "networks": ["network", "ls", "--format", "{{.Name}}"],
        }
        told = {
            kind: ran([self.engine, *command, "--filter", label]).stdout.split()
            for kind, command in kinds.items()
        }
        return {kind: sorted(names) for kind, names in told.items() if names}


# -- what the fleet file says --------------------------------------------------------------------


def read_fleet(file: Path) -> FleetSpec:
    """The fleet file's content; ComposeFailed with all its mistakes."""
    # Only where it is needed: 'down' must work where there is no environment any more.
    from tritonfleet.errors import FleetError
    from tritonfleet.spec import load_fleet

    try:
        return load_fleet(file)
    except FleetError as error:
        raise ComposeFailed(str(error)) from error


def fleet_variables(file: Path, spec: FleetSpec) -> dict[str, str]:
    """What compose.yaml must know of a fleet file, and of the environment where that wins."""
    from tritonfleet.settings import resolve_settings

    ours = [server for server in spec.servers if server.launcher != "external"]
    if len(ours) != 1 or len(spec.servers) != 1:
        raise ComposeFailed(
            f"compose.yaml has one tritonserver, and {file} {len(spec.servers)}. "
            "'tritonfleet serve --launcher container' runs any number."
        )
    server, settings = ours[0], resolve_settings(spec.settings)
    return {
        "FLEET_REPOSITORY": str(settings.repository.resolve()),
        "FLEET_HOST": settings.host,
        "FLEET_HTTP_PORT": str(settings.http_port),
        "FLEET_GRPC_PORT": str(settings.grpc_port),
        "FLEET_CONTROL_PORT": str(settings.control_port),
        "FLEET_FOLDER": str(file.resolve().parent),
        "FLEET_NAME": file.name,
        "FLEET_SERVER": server.name,
        "FLEET_SERVER_MEMORY": str(server.capacity + OVERHEAD_BYTES),
        "FLEET_NOFILE": str(_open_files()),
    }


def _open_files() -> int:
    """As many as a container may have open; an engine cannot grant more than it has itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)


# -- up ------------------------------------------------------------------------------------------


def up(project: Project, spec: FleetSpec) -> None:
    """Starts every service, waits until all are well, and says how to call them."""
    before = project.present()
    if not before.get("containers"):
        check_ports(project)
    _check_models(project, spec)
    check_readable(project)
    project = _with_prometheus(project)
    say("starting server, tritonfleet, envoy and prometheus …")
    try:
        if project.shown("up", "--detach", "--quiet-pull", "--remove-orphans") != 0:
            raise ComposeFailed("Compose could not start the services: see what it says above.")
        wait_until_well(project)
    except (ComposeFailed, KeyboardInterrupt):
        if not before.get("containers"):
            say("taking down what was started …")
            _remove(project)
        raise
    for line in _welcome(project, spec):
        sys.stdout.write(line + "\n")


def check_ports(project: Project) -> None:
    """ComposeFailed when a port is somebody else's: all of them are told at once."""
    taken = [
        f"{host}:{port} ({what}; {variable})"
        for what, host, port, variable in _ports(project)
        if not _is_free(host, port)
    ]
    if taken:
        raise ComposeFailed(
            f"taken already: {', '.join(taken)}.\nEnd what listens there ('ss -ltnp'), or choose "
            "others by the variables named."
        )


def _ports(project: Project) -> Iterator[tuple[str, str, int, str]]:
    """What listens where, and the variable that moves it."""
    host = project.value("tritonfleet", "TRITONFLEET_HOST")
    for what, where, variable in (
        ("HTTP", host, "TRITONFLEET_HTTP_PORT"),
        ("gRPC", host, "TRITONFLEET_GRPC_PORT"),
        ("control", _LOOPBACK, "TRITONFLEET_CONTROL_PORT"),
    ):
        yield what, where, int(project.value("tritonfleet", variable)), variable
    flags = dict(
        flag.lstrip("-").partition("=")[::2]
        for service in ("server", "prometheus")
        for flag in project.config["services"][service]["command"]
    )
    for kind in ("http", "grpc", "metrics"):
        variable = f"TRITONFLEET_SERVER_{kind.upper()}_PORT"
        yield f"tritonserver {kind}", _LOOPBACK, int(flags[f"{kind}-port"]), variable
    port = int(flags["web.listen-address"].rpartition(":")[2])
    yield "Prometheus", _LOOPBACK, port, "PROMETHEUS_PORT"


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _check_models(project: Project, spec: FleetSpec) -> None:
    from tritonfleet.server.layout import published_models

    there = published_models(project.repository) if project.repository.is_dir() else ()
    if not set(spec.models) & set(there):
        raise ComposeFailed(
            f"no model of the fleet is in {project.repository}. Run 'make build-repo'."
        )


def check_readable(project: Project) -> None:
    """ComposeFailed when the containers' user cannot read the fleet file or the repository."""
    from tritonfleet.launchers.container.recipe import User
    from tritonfleet.launchers.container.site import is_readable

    folder = Path(project.variables["FLEET_FOLDER"])
    file, user = folder / project.variables["FLEET_NAME"], User(*4 * (CONTAINER_USER,))
    for path in (folder, file, project.repository, *sorted(project.repository.rglob("*"))):
        if not is_readable(path, user):
            root = path if path in (folder, file) else project.repository
            raise ComposeFailed(
                f"user {CONTAINER_USER}, which the containers run as, cannot read {path}. "
                f"Let it: chmod {'-R ' * (root == project.repository)}o+rX {root}"
            )


def _with_prometheus(project: Project) -> Project:
    """Prometheus's own image where it can be had, else one that is built of Debian's package."""
    image = str(project.config["services"]["prometheus"]["image"])
    if _has_image(project.engine, image) or _pulled(project.engine, image):
        return project
    if "PROMETHEUS_IMAGE" in os.environ:
        raise ComposeFailed(f"{image}, which PROMETHEUS_IMAGE names, cannot be had: see above.")
    say(f"it cannot be had; {_PROMETHEUS}, of Debian's package, takes its place")
    command = [sys.executable, str(ROOT / "scripts" / "images.py"), "prometheus"]
    if subprocess.run(command, check=False).returncode != 0:
        raise ComposeFailed("there is no image of Prometheus. Name one by PROMETHEUS_IMAGE.")
    variables = {**project.variables, "FLEET_PROMETHEUS_IMAGE": _PROMETHEUS}
    return Project(project.engine, project.command, variables, project.config)


def _pulled(engine: str, image: str) -> bool:
    say(f"fetching {image} …")
    said = ran([engine, "pull", "--quiet", image])
    if said.returncode != 0:
        say(last_line(said.stderr))
    return said.returncode == 0


def _has_image(engine: str, image: str) -> bool:
    return ran([engine, "image", "inspect", image]).returncode == 0


def wait_until_well(project: Project) -> None:
    """Returns when every service is healthy; ComposeFailed as soon as one cannot become so."""
    began, told = time.monotonic(), set[str]()
    first = {part.service: part.restarts for part in project.parts()}
    while True:
        parts = project.parts()
        for part in parts:
            if part.is_well and part.service not in told:
                told.add(part.service)
                say(f"{part.service} is well ({time.monotonic() - began:.0f} s)")
        ill = [part for part in parts if part.has_failed(first.get(part.service, 0))]
        if time.monotonic() - began > PATIENCE_S:
            ill = [part for part in parts if not part.is_well]
        if ill:
            raise ComposeFailed(_story(project, ill))
        if parts and all(part.is_well for part in parts):
            return
        time.sleep(_POLL_S)


def _story(project: Project, ill: Sequence[Part]) -> str:
    """Which services are not well, and the ends of their logs."""
    told = ", ".join(f"{part.container} ({part.status}, {part.health})" for part in ill)
    tail = ("logs", "--no-color", "--no-log-prefix", f"--tail={LOG_LINES}")
    logs = "\n".join(f"{part.container}:\n{project.asked(*tail, part.service)}" for part in ill)
    return f"not well: {told}. The ends of their logs:\n{logs}\nMend that, then 'make up' again."


def _welcome(project: Project, spec: FleetSpec) -> Iterator[str]:
    from tritonfleet.app import example

    ports = {what: port for what, _, port, _ in _ports(project)}
    host = project.value("tritonfleet", "TRITONFLEET_HOST").replace("0.0.0.0", _LOOPBACK)
    gateway = f"{'https' if spec.access.tls else 'http'}://{host}:{ports['HTTP']}"
    yield f"fleet '{spec.name}' is up:"
    yield f"  models (Open Inference Protocol)  {gateway}/v2"
    yield f"  the same over gRPC                {host}:{ports['gRPC']}"
    control = f"http://{_LOOPBACK}:{ports['control']}"
    yield f"  control API, and metrics          {control}/v1/status, {control}/metrics"
    yield f"  Prometheus                        http://{_LOOPBACK}:{ports['Prometheus']}"
    yield example(spec, project.repository, gateway)
    yield "'make logs' follows the logs; 'make down' removes everything but the images."


# -- down ----------------------------------------------------------------------------------------


def down(project: Project) -> None:
    """Removes what ``up`` has made, and says what that was; nothing where there is nothing."""
    found = project.present()
    if not found:
        say("nothing was up")
        return
    _remove(project)
    for kind, names in found.items():
        say(f"removed {kind}: {', '.join(names)}")


def _remove(project: Project) -> None:
    if project.shown("down", "--volumes", "--remove-orphans") != 0:
        raise ComposeFailed("Compose could not take everything down: see above, then try again.")
    left = project.present()
    if left:
        raise ComposeFailed(f"still there: {left}. 'docker rm --force', 'docker volume rm' them.")


# -- small things --------------------------------------------------------------------------------


def ran(
    command: Sequence[str], variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command that has ended, with what it said."""
    environment = {**os.environ, **(variables or {})}
    with contextlib.suppress(OSError):
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return subprocess.CompletedProcess(command, 127, "", f"{command[0]} cannot be run")


def last_line(text: str) -> str:
    """Where programs usually say what went wrong."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"compose: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
