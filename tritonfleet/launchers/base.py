"""What a launcher is asked and what it gives back. Knows no way of starting anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from tritonfleet.server.endpoint import Endpoint
from tritonfleet.server.events import ModelEvents
from tritonfleet.settings import DEFAULT_RELEASE, OnnxruntimeBackend
from tritonfleet.spec.containers import ContainerSpec


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """One server as the fleet wants it."""

    name: str
    """Of the server; also the name of its log and of its folder under ``state_dir``."""
    repository: Path
    state_dir: Path
    rate_limit: bool = False
    """Whether instances share the resources that their models name."""
    model_load_thread_count: int = 4
    onnxruntime_backend: OnnxruntimeBackend = "auto"
    """What runs ONNX models where it is ours to choose."""
    load_thread_count: int = 0
    """How many ONNX models may be opening at once in the native backend; 0 is no bound."""
    exit_timeout_s: float = 30.0
    """How long Triton waits for requests in flight once it is told to end."""
    http_url: str | None = None
    """``host:port`` of a server that runs already."""
    grpc_url: str | None = None
    metrics_url: str | None = None
    admin_secret: str | None = field(default=None, repr=False)
    """Of a server that runs already; where it is given, a header opens its restricted APIs."""
    container: ContainerSpec = field(default_factory=ContainerSpec)
    image: str | None = None
    """Of containers that name none of their own; NVIDIA's where None."""
    triton_release: str = DEFAULT_RELEASE
    siblings: tuple[str, ...] = ()
    """All servers of the fleet that have this launcher; containers of others, which an earlier
    fleet kept in this state directory, are removed."""


@runtime_checkable
class RunningServer(Protocol):
    """A tritonserver that has answered, until it ends or is stopped."""

    @property
    def name(self) -> str:
        """The server's name in the fleet."""
        ...

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        ...

    @property
    def log_file(self) -> Path | None:
        """Where its output goes; None when that is not ours to know."""
        ...

    @property
    def onnxruntime_backend(self) -> str | None:
        """What runs its ONNX models, for people; None when that is not ours to know."""
        ...

    @property
    def events(self) -> ModelEvents | None:
        """What its models tell of themselves; None when they cannot."""
        ...

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        ...

    async def wait(self) -> int:
        """Returns the exit status once the server and everything it started has ended."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Ends the server; requests in flight get ``grace_s`` seconds. Harmless afterwards."""
        ...

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its output."""
        ...


@runtime_checkable
class Launcher(Protocol):
    """A way of getting a tritonserver."""

    async def start(self, options: LaunchOptions) -> RunningServer:
        """A server that answers readiness.

        Raises LauncherUnavailable when this machine lacks something, PortTaken, ServerExited with
        the end of the log, ServerTimeout when it never becomes ready, ServerUnreachable when it
        was to run already; of containers EngineUnavailable, ImageMissing, EngineMismatch, and
        ContainerFailed with the end of the log.
        """
        ...
