"""Makes a Debian 12 to build the images on, where no registry can be reached to fetch one from.

Needs debootstrap and root. ``make image`` runs it by itself when it has to. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAME = "tritonfleet/base:bookworm"
RELEASE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
NEEDLESS = (
    "usr/share/locale",
    "usr/share/man",
    "usr/share/info",
    "var/lib/apt/lists",
    "var/cache/apt",
    "var/cache/debconf",
    "var/log",
)


class BaseImageFailed(Exception):
    """No base image could be made; says why and what to do."""


def main() -> int:
    """Makes the image, and says how large it has become."""
    engine = os.environ.get("CONTAINER_ENGINE") or "docker"
    try:
        make(engine)
    except BaseImageFailed as error:
        say(f"error: {error}")
        return 1
    return 0


def make(engine: str) -> str:
    """The name of the image, which is made anew."""
    check()
    say(f"making {NAME} with debootstrap (a minute) …")
    with tempfile.TemporaryDirectory(prefix="tritonfleet-base-") as scratch:
        root = Path(scratch) / "root"
        install(root)
        trim(root)
        hand_over(root, engine)
    return NAME


def check() -> None:
    """BaseImageFailed when this machine cannot do it."""
    elsewhere = "or name an image of Debian 12 yourself: BASE_IMAGE=…"
    if os.geteuid() != 0:
        raise BaseImageFailed(
            f"a base image is made by root. Run 'sudo make base-image', {elsewhere}."
        )
    if shutil.which("debootstrap") is None:
        raise BaseImageFailed(
            "debootstrap is not installed. Install it (Debian and Ubuntu: apt-get install "
            f"debootstrap), {elsewhere}."
        )


def install(root: Path) -> None:
    """The smallest Debian that can install packages."""
    mirror = os.environ.get("DEBIAN_MIRROR") or MIRROR
    command = ["debootstrap", "--variant=minbase", RELEASE, str(root), mirror]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise BaseImageFailed(
            f"debootstrap ended with status {done.returncode}:\n{tail}\n"
            "Name a reachable mirror of Debian with DEBIAN_MIRROR=…, or an image of Debian 12 with "
            "BASE_IMAGE=…"
        )


def trim(root: Path) -> None:
    """Removes what only people at a terminal need, and whatever tells of this machine."""
    for name in NEEDLESS:
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    for document in (root / "usr/share/doc").rglob("*"):
        if document.is_file() and document.name != "copyright":
            document.unlink()
    for name in ("etc/resolv.conf", "etc/hostname"):
        (root / name).unlink(missing_ok=True)
    (root / "etc/apt/sources.list").write_text(
        f"deb {MIRROR} {RELEASE} main\n"
        f"deb {MIRROR} {RELEASE}-updates main\n"
        f"deb {SECURITY} {RELEASE}-security main\n"
    )


def hand_over(root: Path, engine: str) -> None:
    """Gives the files to the engine as an image."""
    changes = ('CMD ["bash"]', "LABEL io.tritonfleet.image=base")
    options = [option for change in changes for option in ("--change", change)]
    pack = ["tar", "--create", "--numeric-owner", "--directory", str(root), "."]
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packed:
        done = subprocess.run(
            [engine, "import", *options, "-", NAME],
            stdin=packed.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0 or packed.returncode != 0:
        raise BaseImageFailed(f"'{engine} import' failed: {done.stderr.strip()}")


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"image: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
