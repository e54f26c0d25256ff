"""The command line of a tritonserver. Pure: it starts nothing and looks nothing up.

The flags were tried one by one on release 24.10; where a flag surprises, the reason stands beside
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.native import NativeBackend

LOOPBACK = "127.0.0.1"
ADMIN_KEY = "tritonfleet-admin"
_RESTRICTED = "model-repository,shared-memory,logging,trace"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where one tritonserver listens."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True, slots=True)
class Invocation:
    """What one start adds to the options: chosen anew each time."""

    instance: str
    """Unique on this machine: tells our server from a stranger on its port, our shared memory
    from others'."""
    ports: Ports
    admin_secret: str = field(repr=False)
    events: Path | None = None
    """The socket on which the native backend tells of its models."""
    address: str = LOOPBACK
    """Of the interface on which it listens."""


def shared_memory_prefix(instance: str) -> str:
    """How the names of all shared-memory regions of this server begin."""
    return f"{instance}_"


def tritonserver_command(
    binary: Path,
    backends: Path | None,
    options: LaunchOptions,
    invocation: Invocation,
    *,
    gpu: bool,
    native: NativeBackend | None = None,
) -> list[str]:
    """The arguments, program first. They hold the admin secret: never log them.

    Without ``backends`` it takes those that it was installed with.
    """
    return [
        str(binary),
        f"--id={invocation.instance}",
        f"--model-repository={options.repository}",
        *([f"--backend-directory={backends}"] if backends else []),
        *_model_control(options),
        *_addresses(invocation.address, invocation.ports),
        *_restrictions(invocation.admin_secret),
        f"--exit-timeout-secs={math.ceil(options.exit_timeout_s)}",
        # Holds for every python-based backend, so that clean-up touches our regions only.
        "--backend-config=python,"
        f"shm-region-prefix-name={shared_memory_prefix(invocation.instance)}",
        *(_native(native, options, invocation) if native else []),
        *([] if gpu else ["--allow-gpu-metrics=false"]),
        *(["--rate-limit=execution_count"] if options.rate_limit else []),
    ]


def _model_control(options: LaunchOptions) -> list[str]:
    return [
        "--model-control-mode=explicit",
        # Completing a configuration costs each load a throw-away process and a second's sleep;
        # ours are complete.
        "--disable-auto-complete-config",
        # Otherwise one failed load makes the whole server unready until it is repaired.
        "--strict-readiness=false",
        "--exit-on-error=false",
        f"--model-load-thread-count={options.model_load_thread_count}",
    ]


def _native(native: NativeBackend, options: LaunchOptions, invocation: Invocation) -> list[str]:
    settings = {
        "library": native.onnxruntime,
        "load_thread_count": options.load_thread_count,
        **({"events": invocation.events} if invocation.events else {}),
    }
    return [f"--backend-config=onnxruntime,{name}={value}" for name, value in settings.items()]


def _addresses(address: str, ports: Ports) -> list[str]:
    return [
        f"--http-address={address}",
        f"--http-port={ports.http}",
        f"--grpc-address={address}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={address}",
        f"--metrics-port={ports.metrics}",
    ]


def _restrictions(secret: str) -> list[str]:
    # Whoever may load a model with files may run code. The colon is right: the comma of the
    # help text is refused. HTTP and gRPC are restricted separately.
    return [
        f"--http-restricted-api={_RESTRICTED}:{ADMIN_KEY}={secret}",
        f"--grpc-restricted-protocol={_RESTRICTED}:{ADMIN_KEY}={secret}",
    ]
