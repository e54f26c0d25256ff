"""How the command line talks to a running fleet: small JSON calls, errors as FleetErrors."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tritonfleet.errors import FleetError


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


def addresses(state_dir: Path, control_port: int, http_port: int) -> dict[str, str]:
    """Where the fleet that uses a state directory listens; the settings' ports if none does."""
    try:
        found = json.loads((state_dir / "control.json").read_text(encoding="utf-8"))
        return {"control": str(found["control"]), "gateway": str(found["gateway"])}
    except (OSError, ValueError, KeyError):
        return {
            "control": f"http://127.0.0.1:{control_port}",
            "gateway": f"http://127.0.0.1:{http_port}",
        }


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
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text or f"HTTP {error.code}"
