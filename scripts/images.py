"""Builds the container images of deploy/, on any engine with Docker's command line.

What the build needs of this machine is taken from its environment: proxies, a package index of
one's own, the certificates of a proxy that opens TLS. Nothing of it is in what is built. Run with
any Python from 3.10 and its standard library only.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import base_image

ROOT = Path(__file__).resolve().parent.parent
USUAL_BASE = "debian:bookworm-slim"
CERTIFICATES = ROOT / "deploy/ca-certificates"
IMAGES = ("tritonserver-cpu", "tritonfleet", "prometheus")
"""Folders of deploy/ with a Dockerfile that can be built anywhere."""
DEFAULT = ("tritonserver-cpu", "tritonfleet")
PASSED_ON = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "DEBIAN_MIRROR",
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"),
)
BUNDLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
LABELS = ("io.tritonfleet.image", "io.tritonfleet.stage")
_PULL_S = 300.0
_TAIL = 25
_HINTS = (
    ("no space left on device", "The engine's disk is full. 'docker system df' tells with what."),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "A proxy opens TLS. Name the file with its certificates: --ca-bundle FILE, or PIP_CERT.",
    ),
    (
        "Unable to locate package",
        "The base image must be Debian 12 (bookworm), for its Python 3.11. See BASE_IMAGE.",
    ),
    (
        "Temporary failure",
        "The build reaches no network. Set HTTP_PROXY and HTTPS_PROXY if there is a proxy, "
        "PIP_INDEX_URL and DEBIAN_MIRROR for servers of your own.",
    ),
    ("registry-1.docker.io", "The base image cannot be fetched. Name another: BASE_IMAGE=…"),
    ("pull access denied", "There is no such base image. Name another: BASE_IMAGE=…"),
    ("No matching distribution", "Name an index that has it: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL."),
)


class ImageFailed(Exception):
    """An image could not be built; says why and what to do."""


@dataclass(frozen=True)
class Built:
    """One image as it stands on the engine."""

    name: str
    version: str
    id: str
    size_bytes: int
    changed: bool
    seconds: float

    def __str__(self) -> str:
        news = f"built in {self.seconds:.0f} s" if self.changed else "up to date"
        return f"{self.name}:{self.version}  {self.size_bytes / 1e6:.0f} MB  {news}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds or removes; exit status 1 with a sentence when that fails."""
    options = _options(arguments)
    try:
        engine = find_engine(os.environ)
        if options.remove:
            remove(engine)
            return 0
        built = build_all(engine, options)
    except (ImageFailed, base_image.BaseImageFailed) as error:
        say(f"error: {error}")
        return 1
    if options.json:
        sys.stdout.write(json.dumps([asdict(image) for image in built], indent=2) + "\n")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="images.py", description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"of: {', '.join(IMAGES)}")
    parser.add_argument("--base", default=os.environ.get("BASE_IMAGE"), help="a Debian 12")
    parser.add_argument("--ca-bundle", type=Path, help="certificates that the build shall trust")
    parser.add_argument("--network", default="host", help="of the build (default: %(default)s)")
    parser.add_argument("--no-cache", action="store_true", help="build every layer anew")
    parser.add_argument("--json", action="store_true", help="tell the result as JSON")
    parser.add_argument("--remove", action="store_true", help="remove all images of ours instead")
    options = parser.parse_args(arguments)
    unknown = set(options.images) - set(IMAGES)
    if unknown:
        parser.error(f"unknown image {', '.join(sorted(unknown))}; known: {', '.join(IMAGES)}")
    return options


# -- the engine ------------------------------------------------------------------------------


def find_engine(environment: Mapping[str, str]) -> str:
    """The command of an engine that answers; ImageFailed when there is none."""
    wanted = environment.get("CONTAINER_ENGINE")
    engine = wanted or next(filter(shutil.which, ("docker", "podman")), None)
    if engine is None or shutil.which(engine) is None:
        raise ImageFailed(
            f"{wanted or 'docker'} is not installed. Install Docker or Podman "
            "(Debian and Ubuntu: apt-get install docker.io)."
        )
    done = ask(engine, "info")
    if done.returncode != 0:
        raise ImageFailed(no_answer(engine, (done.stderr or done.stdout).strip()))
    return engine


def no_answer(engine: str, said: str) -> str:
    """Why an engine does not answer, from its client's last line."""
    last = said.splitlines()[-1] if said else "no reason given"
    if "permission denied" in said.lower():
        return (
            f"{last}. Join the group that owns the socket ('sudo usermod -aG docker $USER', then "
            "log in anew), or run this with sudo."
        )
    return (
        f"the container engine does not answer ({last}). Start it ('sudo systemctl start docker'), "
        "or set DOCKER_HOST."
    )


def ask(engine: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs one command of the engine; its output is for us."""
    return subprocess.run(
        [engine, *arguments], capture_output=True, text=True, errors="replace", check=False
    )


def identity(engine: str, image: str) -> str:
    """The id of an image; empty when the engine has none of that name."""
    done = ask(engine, "image", "inspect", "--format", "{{.Id}}", image)
    return done.stdout.strip() if done.returncode == 0 else ""


# -- building --------------------------------------------------------------------------------


def build_all(engine: str, options: argparse.Namespace) -> list[Built]:
    """Builds what was asked for, one after the other, and says how large each is."""
    base = options.base or choose_base(engine)
    built = []
    with certificates(options.ca_bundle or find_bundle(os.environ)):
        for name in options.images or DEFAULT:
            built.append(build(engine, name, base, options))
            say(str(built[-1]))
    return built


def choose_base(engine: str) -> str:
    """Debian's own slim image if it can be had, else one that is made here."""
    for image in (USUAL_BASE, base_image.NAME):
        if identity(engine, image):
            return image
    say(f"fetching {USUAL_BASE} …")
    with contextlib.suppress(subprocess.TimeoutExpired):
        command = [engine, "pull", "--quiet", USUAL_BASE]
        done = subprocess.run(command, capture_output=True, timeout=_PULL_S, check=False)
        if done.returncode == 0:
            return USUAL_BASE
    say(f"{USUAL_BASE} cannot be fetched")
    return base_image.make(engine)


def build(engine: str, name: str, base: str, options: argparse.Namespace) -> Built:
    """One image, under its version and as the latest."""
    version, repository = project_version(), f"tritonfleet/{name}"
    before, started = identity(engine, f"{repository}:latest"), time.monotonic()
    say(f"{repository}:{version} on {base} …")
    run_build(build_command(engine, name, base, options, os.environ), name)
    after = identity(engine, f"{repository}:latest")
    if before and before != after:
        ask(engine, "image", "rm", before)  # stays while a container uses it
    size = ask(engine, "image", "inspect", "--format", "{{.Size}}", after).stdout
    seconds = round(time.monotonic() - started, 1)
    return Built(repository, version, after, int(size), before != after, seconds)


def build_command(
    engine: str, name: str, base: str, options: argparse.Namespace, environment: Mapping[str, str]
) -> list[str]:
    """The command line. Arguments that may hold passwords stand there by name only."""
    version = project_version()
    given = {"BASE_IMAGE": base, "VERSION": version, "ONNXRUNTIME_VERSION": pinned("onnxruntime")}
    arguments = [
        *(f"{key}={value}" for key, value in given.items() if key in declared(name)),
        *(key for key in PASSED_ON if environment.get(key)),
    ]
    return [
        *(engine, "build", f"--network={options.network}"),
        *(["--no-cache"] if options.no_cache else []),
        # Else its images have no health check.
        *(["--format=docker"] if Path(engine).name == "podman" else []),
        *(option for argument in arguments for option in ("--build-arg", argument)),
        *("--tag", f"tritonfleet/{name}:{version}", "--tag", f"tritonfleet/{name}:latest"),
        *("--file", f"deploy/{name}/Dockerfile", "."),
    ]


def declared(name: str) -> set[str]:
    """The arguments that a Dockerfile takes."""
    text = (ROOT / "deploy" / name / "Dockerfile").read_text(encoding="utf-8")
    return set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))


def run_build(command: list[str], name: str) -> None:
    """Runs it and shows the steps; ImageFailed with its last words."""
    tail: collections.deque[str] = collections.deque(maxlen=_TAIL)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            tail.append(line.rstrip())
            show(line)
    if process.returncode != 0:
        raise ImageFailed(explain(name, list(tail)))


def show(line: str) -> None:
    """The beginning of each step, to people who watch."""
    if sys.stderr.isatty() and re.match(r"Step \d|STEP \d|#\d+ \[", line):
        say(line.strip()[:100])


def explain(name: str, tail: list[str]) -> str:
    """What a failed build said last, and what to do about it."""
    text = "\n".join(tail)
    hint = next((hint for needle, hint in _HINTS if needle in text), "See the last lines above.")
    return f"the build of {name} failed:\n{text}\n{hint}"


def project_version() -> str:
    """As pyproject.toml says."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return _first(r'^version = "(.+)"', text)


def pinned(package: str) -> str:
    """The version of a package in constraints.txt that Python 3.11 gets."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not re.search(r"full_version < '3\.11'", line)]
    return _first(rf"^{re.escape(package)}==([^ ;]+)", "\n".join(lines))


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise ImageFailed(f"nothing in the checkout matches {pattern!r}. Is it complete?")
    return found[1]


# -- certificates ----------------------------------------------------------------------------


def find_bundle(environment: Mapping[str, str]) -> Path | None:
    """The certificates that pip is told to trust on this machine."""
    return next((Path(environment[name]) for name in BUNDLES if environment.get(name)), None)


@contextlib.contextmanager
def certificates(bundle: Path | None) -> Iterator[None]:
    """Lends the build a bundle; one build at a time, as they share the place."""
    lent = CERTIFICATES / "build.crt"
    lock = os.open(CERTIFICATES, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if bundle:
            lend(bundle, lent)
        yield
    finally:
        lent.unlink(missing_ok=True)
        os.close(lock)


def lend(bundle: Path, place: Path) -> None:
    """Copies a bundle to where the build finds it."""
    try:
        place.write_bytes(bundle.read_bytes())
    except OSError as error:
        raise ImageFailed(
            f"the certificates {bundle} cannot be read ({error.strerror}). Name others with "
            f"--ca-bundle, or unset {', '.join(BUNDLES)}."
        ) from error


# -- removing --------------------------------------------------------------------------------


def remove(engine: str) -> None:
    """Removes all images of ours, and the stages that are kept so that a build is quick."""
    before = ours(engine)
    for image in before:
        done = ask(engine, "image", "rm", "--force", image)
        if done.returncode != 0 and "No such image" not in done.stderr:
            say(f"kept {image}: {done.stderr.strip().splitlines()[-1]}")
    say(f"removed {len(before) - len(ours(engine))} images")


def ours(engine: str) -> list[str]:
    """The images that have a label of ours, by id; stages last, which the others are made of."""
    found = [image for label in LABELS for image in ids(engine, label)]
    return list(dict.fromkeys(found))


def ids(engine: str, label: str) -> list[str]:
    """The images that have a label, newest first."""
    done = ask(engine, "images", "--quiet", "--no-trunc", "--filter", f"label={label}")
    return list(dict.fromkeys(done.stdout.split()))


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"image: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
