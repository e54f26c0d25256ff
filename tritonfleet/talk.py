"""How the command line talks to a running fleet: small JSON calls, errors as FleetErrors."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tritonfleet.errors import FleetError
from tritonfleet.server.layout import replace_text
from tritonfleet.settings import Settings

ADDRESSES_NAME = "control.json"
"""In the state directory, as long as the fleet runs."""


class FleetUnreachable(FleetError):
    """No fleet runs where the command looked for one."""

    def __init__(self, address: str, cause: str) -> None:
        super().__init__(address, cause)
        self.address, self.cause = address, cause

    def __str__(self) -> str:
        return (
            f"no fleet answers at {self.address} ({self.cause}). "
            "Start one with 'tritonfleet serve', or name its address with --control or --gateway."
        )


class Refused(FleetError):
    """The fleet answered with an error of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a fleet listens, as URLs."""

    control: str
    gateway: str
    grpc: str
    """As ``host:port``, which is what gRPC clients want."""


def publish_addresses(state_dir: Path, addresses: Addresses) -> None:
    """Leaves a fleet's addresses where ``published_addresses`` finds them."""
    replace_text(state_dir / ADDRESSES_NAME, json.dumps(asdict(addresses)) + "\n")


def published_addresses(state_dir: Path) -> Addresses | None:
    """Where the fleet that uses a state directory listens, as it says itself; None if none does."""
    try:
        found = json.loads((state_dir / ADDRESSES_NAME).read_text(encoding="utf-8"))
        return Addresses(*(str(found[key]) for key in ("control", "gateway", "grpc")))
    except (OSError, ValueError, KeyError):
        return None


def addresses(settings: Settings) -> Addresses:
    """Where the fleet that uses a state directory listens; the settings' ports if none does."""
    return published_addresses(settings.state_dir) or expected_addresses(settings)


def expected_addresses(settings: Settings, *, tls: bool = False) -> Addresses:
    """Where a fleet with these settings listens."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if tls else "http"
    return Addresses(
        control=f"http://127.0.0.1:{settings.control_port}",
        gateway=f"{scheme}://{host}:{settings.http_port}",
        grpc=f"{host}:{settings.grpc_port}",
    )


def call(method: str, url: str, body: Any = None, timeout_s: float = 660.0) -> Any:
    """The JSON answer to one call; Refused or FleetUnreachable otherwise."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method)  # http by construction
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # as above
            text = answer.read()
    except urllib.error.HTTPError as error:
        raise Refused(error.code, _message(error)) from error
    except (urllib.error.URLError, OSError) as error:
        raise FleetUnreachable(url, str(getattr(error, "reason", error))) from error
    return json.loads(text) if text.strip() else {}


def _message(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    return error_in(text) or text or f"HTTP {error.code}"


def error_in(text: str) -> str | None:
    """The message of an error answer in Triton's form; None for anything else."""
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return None
