"""What to type on a machine of this kind. Where the distribution is unknown, both ways are told."""

from __future__ import annotations

from typing import Literal

Family = Literal["debian", "redhat", "other"]
GUIDE = "https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/"
TOOLKIT_GUIDE = (
    "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
)
TROUBLE_GUIDE = (
    "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/troubleshooting.html"
)

_STEPS: dict[str, dict[str, tuple[str, ...]]] = {
    "driver": {
        "debian": (
            "Ubuntu: sudo ubuntu-drivers install --gpgpu",
            "Debian, with contrib and non-free: sudo apt-get install -y nvidia-driver",
        ),
        "redhat": (
            "with NVIDIA's repository: sudo dnf module install -y nvidia-driver:latest-dkms",
        ),
    },
    "toolkit": {
        "debian": ("sudo apt-get install -y nvidia-container-toolkit",),
        "redhat": ("sudo dnf install -y nvidia-container-toolkit",),
    },
    "docker": {
        "debian": ("sudo apt-get install -y docker.io",),
        "redhat": ("sudo dnf install -y podman  # or docker-ce, from Docker's repository",),
    },
    "libpython": {
        "debian": ("sudo apt-get install -y libpython{version}",),
        "redhat": ("sudo dnf install -y python{version}-libs",),
    },
}


def family_of(os_release: str) -> Family:
    """Of the text of /etc/os-release."""
    fields = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    names = {fields.get(key, "").strip('"') for key in ("ID", "ID_LIKE")}
    words = {word for name in names for word in name.split()}
    if words & {"debian", "ubuntu"}:
        return "debian"
    return "redhat" if words & {"rhel", "fedora", "centos"} else "other"


def install(what: str, family: Family, **details: str) -> tuple[str, ...]:
    """The commands that install a thing."""
    steps = _STEPS[what]
    chosen = steps.get(family) or tuple(step for each in steps.values() for step in each)
    return tuple(step.format(**details) for step in chosen)
