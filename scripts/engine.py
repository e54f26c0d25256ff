"""Runs one command with a Docker engine to talk to, and ends the engine with it.

An engine that runs already is used as it is and left alone. Otherwise, as root, one is started
from Debian's packages for the time of the command, with everything it holds in a folder of this
checkout; ``--install`` fetches what is missing. Run with any Python from 3.10 and its standard
library only:

    python3 scripts/engine.py [--install] COMMAND [ARGUMENT …]
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".tritonfleet" / "engine"
"""Layers and the client's plugins, kept for the next time; ``make clean`` removes them."""
PACKAGES = ("docker.io", "debootstrap", "iptables", "iproute2", "cgroupfs-mount")
PLUGINS = {"compose": "docker-compose", "buildx": "docker-buildx"}
"""Subcommands of the client, and Debian's packages that hold them."""
_PLUGINS_FROM = "trixie"
"""The first Debian with Compose 2. What is taken from it needs nothing but a libc of Debian 12."""
_UP_S = 60.0
_DOWN_S = 60.0
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1
# With networks of its own; without, where iptables may not be used.
_WAYS = ((), ("--bridge=none", "--iptables=false"))


class EngineFailed(Exception):
    """No engine could be had; says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status, or 1 when there is no engine for it."""
    options = _options(arguments)
    try:
        with engine(options.install) as environment:
            return run(options.command, environment)
    except EngineFailed as error:
        say(f"error: {error}")
        return 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="engine.py", description=__doc__.split("\n")[0])
    parser.add_argument("--install", action="store_true", help="install what is missing, with apt")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args(arguments)
    if not options.command:
        parser.error("a command is needed")
    return options


@contextlib.contextmanager
def engine(install: bool) -> Iterator[dict[str, str]]:
    """The environment for commands that talk to an engine, which runs as long as the block."""
    environment = dict(os.environ)
    if reachable(environment):
        say("using the engine that runs already")
        yield with_plugins(environment, install)
        return
    prepare(install)
    if reachable(environment):  # where there is an init system, the package has started it
        yield with_plugins(environment, install)
        return
    with _short_folder() as folder, running(folder) as address:
        yield with_plugins({**environment, "DOCKER_HOST": address}, install)


def reachable(environment: Mapping[str, str]) -> bool:
    """Whether an engine answers where this environment looks for one."""
    return shutil.which("docker") is not None and quiet(["docker", "info"], environment) == 0


def prepare(install: bool) -> None:
    """Makes sure that an engine could be started here; EngineFailed when it could not."""
    if os.geteuid() != 0:
        raise EngineFailed("no Docker engine answers. Start one, or let root run this.")
    if install:
        install_packages()
    if shutil.which("dockerd") is None:
        raise EngineFailed(
            "no Docker engine answers, and none is installed. "
            f"Install one, in Debian with: apt-get install {' '.join(PACKAGES)}"
        )
    if " cgroup" not in Path("/proc/mounts").read_text() and shutil.which("cgroupfs-mount"):
        quiet(["cgroupfs-mount"], os.environ)


def install_packages() -> None:
    """Installs the engine and what makes a base image, where they are missing."""
    missing = [name for name in PACKAGES if quiet(["dpkg", "-s", name], os.environ) != 0]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise EngineFailed("no apt-get here. Install Docker, start it, and try again.")
    say(f"installing {', '.join(missing)} …")
    settings = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _must(["apt-get", "update", "-qq"], settings)
    _must(["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing], settings)


# -- the engine ------------------------------------------------------------------------------


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """The address of an engine that listens in ``folder`` and ends with the block."""
    daemon = first_that_runs(Place(HOME / "data", folder, HOME / "dockerd.log"))
    say(f"started an engine at {daemon.place.address}; its log: {daemon.place.log}")
    try:
        yield daemon.place.address
    finally:
        daemon.end()
        unmount_below(folder)
        say("stopped the engine")


def unmount_below(folder: Path) -> None:
    """Takes away what an engine leaves mounted: the namespace of its networks."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1]
        if place.startswith(f"{folder}/"):
            quiet(["umount", "--lazy", place], os.environ)


@dataclass(frozen=True)
class Place:
    """Where an engine keeps things."""

    data: Path
    """Images and containers."""
    folder: Path
    """Sockets and process ids; its path is short."""
    log: Path

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"unix://{self.folder}/docker.sock"

    def command(self) -> list[str]:
        """The engine's command line."""
        return [
            "dockerd",
            f"--host={self.address}",
            f"--data-root={self.data}",
            f"--exec-root={self.folder / 'run'}",
            f"--pidfile={self.folder / 'pid'}",
        ]


class Daemon:
    """An engine of ours; it ends with this process at the latest."""

    def __init__(self, place: Place, arguments: Sequence[str] = ()) -> None:
        self.place = place
        place.log.parent.mkdir(parents=True, exist_ok=True)
        with place.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*place.command(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is for the command, which needs the engine to clean up.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def is_up(self) -> bool:
        """Waits until it answers; False when it has ended instead, or takes too long."""
        deadline = time.monotonic() + _UP_S
        environment = {**os.environ, "DOCKER_HOST": self.place.address}
        while self._process.poll() is None and time.monotonic() < deadline:
            if quiet(["docker", "info"], environment) == 0:
                return True
            time.sleep(_POLL_S)
        return False

    def end(self, number: int = signal.SIGTERM) -> None:
        """Asks it to end, which ends its containers first; kills it if it does not."""
        self._process.send_signal(number)
        try:
            self._process.wait(_DOWN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def first_that_runs(place: Place) -> Daemon:
    """An engine with as much as this machine allows; EngineFailed with the end of its log."""
    for way in _WAYS:
        daemon = Daemon(place, way)
        try:
            if daemon.is_up():
                return daemon
        except BaseException:
            daemon.end()
            raise
        daemon.end()
    tail = "\n".join(place.log.read_text(errors="replace").splitlines()[-5:])
    raise EngineFailed(
        f"an engine cannot run on this machine. The end of {place.log}:\n{tail}\n"
        "It needs root with the right to mount; inside a container that is 'docker run "
        "--privileged'."
    )


def _end_with_parent() -> None:
    # Killed however hard, this program leaves no engine: it is then asked to end, and ends its
    # containers.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _short_folder() -> Iterator[Path]:
    # Not in the checkout: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(
        prefix="tritonfleet-engine-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


# -- the client's plugins --------------------------------------------------------------------


def with_plugins(environment: Mapping[str, str], install: bool) -> dict[str, str]:
    """An environment in which the client has Compose and BuildKit, if they can be had."""
    missing = [name for name in PLUGINS if quiet(["docker", name, "version"], environment) != 0]
    if not missing or not install:
        return dict(environment)
    folder = HOME / "client" / "cli-plugins"
    try:
        _fetch_plugins(
            folder, [name for name in missing if not (folder / f"docker-{name}").exists()]
        )
    except EngineFailed as error:
        say(f"no {' nor '.join(missing)} for the client: {error}")
    _take_over_configuration(environment, folder.parent)
    return {**environment, "DOCKER_CONFIG": str(folder.parent)}


def _take_over_configuration(environment: Mapping[str, str], folder: Path) -> None:
    """Whoever has logged in to a registry stays so."""
    theirs = Path(environment.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    if theirs.exists() and theirs.parent != folder:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(theirs, folder / "config.json")


def _fetch_plugins(folder: Path, names: Sequence[str]) -> None:
    if not names:
        return
    say(f"fetching {', '.join(names)} for the client …")
    with tempfile.TemporaryDirectory() as scratch:
        _must(_apt(Path(scratch), "update", "-qq"), os.environ)
        packages = [PLUGINS[name] for name in names]
        _must(_apt(Path(scratch), "download", "-qq", *packages), os.environ, cwd=scratch)
        for package in Path(scratch).glob("*.deb"):
            _must(["dpkg", "-x", str(package), f"{scratch}/unpacked"], os.environ)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (found,) = Path(scratch, "unpacked").glob(f"usr/*/docker/cli-plugins/docker-{name}")
            shutil.copy2(found, folder)


def _apt(scratch: Path, *arguments: str) -> list[str]:
    """apt-get with lists of its own, so that no other release reaches the machine's."""
    sources = scratch / "sources.list"
    sources.write_text(f"deb {_mirror()} {_PLUGINS_FROM} main\n")
    for folder in ("lists/partial", "archives/partial"):
        (scratch / folder).mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch,
        "APT::Sandbox::User": "root",
    }
    options = [f"-o{name}={value}" for name, value in settings.items()]
    return ["apt-get", *options, *arguments]


def _mirror() -> str:
    """Where this machine gets Debian from."""
    texts = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    words = " ".join(text.read_text() for text in texts if text.is_file()).split()
    found = (word for word in words if "://" in word and word.rstrip("/").endswith("/debian"))
    return os.environ.get("DEBIAN_MIRROR") or next(found, "http://deb.debian.org/debian")


# -- commands --------------------------------------------------------------------------------


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status of the command, which gets the signals that are sent to us."""
    child = subprocess.Popen(command, env=environment)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: child.send_signal(number))
    status = child.wait()
    return status if status >= 0 else 128 - status


def quiet(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status of a command whose output nobody needs."""
    devnull = subprocess.DEVNULL
    try:
        return subprocess.run(
            command, env=environment, stdin=devnull, stdout=devnull, stderr=devnull, check=False
        ).returncode
    except OSError:
        return 127


def _must(command: Sequence[str], environment: Mapping[str, str], cwd: str | None = None) -> None:
    status = subprocess.run(command, env=environment, cwd=cwd, check=False).returncode
    if status != 0:
        raise EngineFailed(f"'{' '.join(command)}' ended with status {status}; see above.")


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"engine: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
