"""How a tritonserver's container is made: the ``container`` entry of a server.

Names follow Docker's, whole; defaults are the safe ones. What a Docker-compatible engine makes of
them is told in Docker's Engine API, version 1.41.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from tritonfleet.spec.base import Spec
from tritonfleet.units import Bytes

GpuId = Annotated[
    str,
    StringConstraints(pattern=r"^(\d+(:\d+)?|GPU-[0-9a-fA-F-]+|MIG-[A-Za-z0-9/-]+)$"),
]
"""As ``nvidia-smi -L`` tells them: an index, ``GPU:MIG`` indexes, or a UUID."""
Ulimit = Annotated[str, StringConstraints(pattern=r"^(-1|\d+)(:(-1|\d+))?$")]
"""``soft``, or ``soft:hard``; -1 is no limit."""
User = Annotated[str, StringConstraints(pattern=r"^\d+(:\d+)?$")]
Network = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
MountTarget = Annotated[str, StringConstraints(pattern=r"^/.+$")]
REPOSITORY = "/models"
"""Where a container finds the model repository."""
_GPU_VARIABLE = "NVIDIA_VISIBLE_DEVICES"


class ContainerPorts(Spec):
    """Ports of this machine on which the container's server is reached; 0 picks one."""

    http: int = Field(0, ge=0, le=65535)
    grpc: int = Field(0, ge=0, le=65535)
    metrics: int = Field(0, ge=0, le=65535)


class ContainerSpec(Spec):
    """What a container gets of its machine, and what it may not do there."""

    image: str | None = Field(
        None,
        description="Any image with a tritonserver on its PATH. Where not given: the setting "
        "'image', else NVIDIA's image of the setting 'triton_release'.",
    )
    engine: str | None = Field(
        None,
        description="Where the engine listens, such as unix:///run/podman/podman.sock; DOCKER_HOST "
        "or Docker's usual socket where not given.",
    )
    pull: Literal["missing", "always", "never"] = Field(
        "missing", description="When the image is fetched from its registry."
    )
    gpus: tuple[GpuId, ...] | Literal["all"] = Field(
        (), description="GPUs or MIG devices by index or UUID, as 'nvidia-smi -L' tells them."
    )
    network: Network = Field(
        "host",
        description="'host', or a network of the engine such as 'bridge': then the three ports "
        "are published at 'address'.",
    )
    address: str = Field(
        "127.0.0.1", description="Where this machine listens for the server; keep it private."
    )
    ports: ContainerPorts = ContainerPorts()
    shm_size: Bytes = Field(
        1 << 30,
        description="Shared memory; each instance of a Python model takes 1 MiB and more of it.",
    )
    ipc: Literal["private", "host"] = Field(
        "private",
        description="'host' shares /dev/shm with this machine: what clients need that hand over "
        "tensors in system shared memory.",
    )
    memory: Bytes | None = Field(
        None, description="The container's limit of memory; above the server's capacity."
    )
    cpus: float | None = Field(None, gt=0, description="How many cores it may keep busy.")
    cpuset: str | None = Field(None, description="Which cores, such as '0-3,8'.")
    pids_limit: int | None = Field(None, ge=1, description="How many processes and threads.")
    ulimits: dict[str, Ulimit] | None = Field(
        None,
        description="By name, 'soft' or 'soft:hard'; -1 is no limit. Where not given: the engine's "
        "own, and with GPUs what NVIDIA advises, 'memlock: -1' and 'stack: 67108864'.",
    )
    user: User | None = Field(
        None,
        description="'UID' or 'UID:GID'. Where not given: ours, or 1000:1000 if we are root.",
    )
    read_only: bool | None = Field(
        None,
        description="A read-only root with a /tmp in memory; where not given, if the image says "
        "by its label io.tritonfleet.read-only that it can.",
    )
    environment: dict[str, str] = Field(default_factory=dict)
    mounts: dict[str, MountTarget] = Field(
        default_factory=dict,
        description="Further folders of this machine, read-only: path here to path inside.",
    )
    restart: Literal["no", "on-failure", "unless-stopped", "always"] = Field(
        "no",
        description="The engine's own policy, for the time that tritonfleet is away; while it "
        "runs, it restarts the server and gives it its models back.",
    )
    keep: bool = Field(
        False,
        description="The container, with its models, outlives tritonfleet, and the next one adopts "
        "it. Else it is gone when tritonfleet is.",
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> ContainerSpec:
        if self.restart != "no" and not self.keep:
            raise ValueError(
                "'restart' needs 'keep: true': else no container stays to be restarted"
            )
        if self.network == "none":
            raise ValueError("without a network nobody could reach the server: 'host', or 'bridge'")
        if any(target.rstrip("/") == REPOSITORY for target in self.mounts.values()):
            raise ValueError(f"{REPOSITORY} is where the model repository is mounted")
        if _GPU_VARIABLE in self.environment:
            raise ValueError(f"say in 'gpus', and not by {_GPU_VARIABLE}, which GPUs it gets")
        return self
