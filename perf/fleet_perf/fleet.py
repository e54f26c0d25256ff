"""A running fleet as the bench sees it: its control API, its gateway, and the Triton behind it.

Knows addresses, answers and their headers; measures nothing but the time of one request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from fleet_perf.inputs import Tensor, http_request, members
from tritonfleet.errors import FleetError, Unstable
from tritonfleet.gateway.envoy.plan import RESIDENCY_HEADER, WAIT_HEADER
from tritonfleet.talk import FleetUnreachable, Refused, error_in

TIMEOUT_S = 600.0
"""Longer than any load: what takes longer is no measurement."""
_ERROR_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """One inference request and what came of it."""

    status: int
    latency_s: float
    """From the first byte sent to the last byte received."""
    cold: bool
    """The gateway says that the model was not in memory when the request came."""
    wait_ms: float
    """How long the gateway held the request until it was."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Counters:
    """What a server has counted for a model since it was loaded."""

    succeeded: int
    failed: int
    inferences: int


class RunningFleet:
    """Connections to a fleet's gateway and control API; use it as a context."""

    def __init__(self, control: str, gateway: str, connections: int = 64) -> None:
        self.control, self.gateway = control.rstrip("/"), gateway.rstrip("/")
        self._connections = connections
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> RunningFleet:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            # Else aiohttp asks for compressed answers, and Triton compresses each of them.
            headers={"Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    # -- what it is ------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """Servers and models; FleetUnreachable when no fleet answers."""
        status: dict[str, Any] = await self._json("GET", f"{self.control}/v1/status")
        return status

    async def names(self) -> tuple[str, ...]:
        """Every model of the fleet."""
        return tuple(str(model["name"]) for model in (await self.status())["models"])

    async def config(self, model: str) -> dict[str, Any]:
        """A model's configuration, loaded or not."""
        url = f"{self.gateway}/v2/models/{quote(model, safe='')}/config"
        config: dict[str, Any] = await self._json("GET", url)
        return config

    async def closure(self, model: str) -> tuple[str, ...]:
        """A model and, if it is an ensemble, everything it calls; callers before the called."""
        found = [model]
        for name in found:  # grows while it is read
            found += [m for m in members(await self.config(name)) if m not in found]
        return tuple(found)

    async def decisions(self, model: str) -> list[dict[str, Any]]:
        """What the controller remembers having decided about a model, newest first."""
        url = f"{self.control}/v1/models/{quote(model, safe='')}/decisions"
        decisions: list[dict[str, Any]] = await self._json("GET", url)
        return decisions

    async def triton_of(self, model: str) -> str:
        """``host:port`` of the tritonserver that holds a model; Unstable when none does."""
        status = await self.status()
        entry = next(entry for entry in status["models"] if entry["name"] == model)
        for server in status["servers"]:
            if server["name"] == entry["server"] and "http" in server:
                return str(server["http"])
        raise Unstable(model, f"it is on no server that runs ({entry['reason']})")

    async def counters(self, address: str, model: str) -> Counters:
        """What Triton counts for a model, asked for at ``address`` (with its scheme)."""
        answer = await self._json("GET", f"{address}/v2/models/{quote(model, safe='')}/stats")
        versions = answer["model_stats"]
        return Counters(
            succeeded=sum(v["inference_stats"]["success"]["count"] for v in versions),
            failed=sum(v["inference_stats"]["fail"]["count"] for v in versions),
            inferences=sum(v["inference_count"] for v in versions),
        )

    # -- what it is asked to do --------------------------------------------------------------------

    async def act(self, verb: str, model: str) -> dict[str, Any]:
        """``load``, ``unload``, ``pin`` or ``unpin``; Refused when the fleet declines."""
        url = f"{self.control}/v1/models/{quote(model, safe='')}/{verb}"
        answer: dict[str, Any] = await self._json("POST", url)
        return answer

    async def unload(self, models: Sequence[str]) -> None:
        """Returns when the memory of all of them is free."""
        for model in models:
            await self.act("unload", model)

    @contextlib.asynccontextmanager
    async def resident(self, model: str) -> AsyncIterator[str]:
        """Keeps a model in memory; yields ``host:port`` of the tritonserver that holds it."""
        entry = next(m for m in (await self.status())["models"] if m["name"] == model)
        await self.act("pin", model)
        try:
            await self.act("load", model)
            yield await self.triton_of(model)
        finally:
            if not entry["pinned"]:
                with contextlib.suppress(FleetError):
                    await self.act("unpin", model)

    async def ask(self, address: str, model: str, tensors: Sequence[Tensor]) -> Answer:
        """One inference at ``address`` (with its scheme), timed; errors are answers, too."""
        body, headers = http_request(tensors)
        url = f"{address}/v2/models/{quote(model, safe='')}/infer"
        started = time.perf_counter()
        try:
            async with self._session.post(url, data=body, headers=headers) as answer:
                content = await answer.read()
                latency_s = time.perf_counter() - started
                return _answer(answer.status, answer.headers, content, latency_s)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            cause = f"{type(error).__name__}: {error}"
            return Answer(0, time.perf_counter() - started, False, 0.0, cause)

    async def _json(self, method: str, url: str) -> Any:
        try:
            async with self._session.request(method, url) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise FleetUnreachable(url, str(error) or type(error).__name__) from error
        if answer.status >= 400:
            raise Refused(answer.status, _message(text) or f"{url} answers {answer.status}")
        try:
            return json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise FleetUnreachable(url, "what answers there is no fleet") from error


def _answer(status: int, headers: Mapping[str, str], content: bytes, latency_s: float) -> Answer:
    return Answer(
        status=status,
        latency_s=latency_s,
        cold=headers.get(RESIDENCY_HEADER) == "cold",
        wait_ms=float(headers.get(WAIT_HEADER, 0.0)),
        error=None if status == 200 else _message(content.decode(errors="replace")),
    )


def _message(text: str) -> str:
    return error_in(text) or text[:_ERROR_CHARACTERS]


def failure(address: str, model: str, answer: Answer) -> FleetError:
    """What to raise for an answer that is none, where only good ones make a measurement."""
    if not answer.status:
        return FleetUnreachable(address, answer.error or "no answer")
    return Refused(answer.status, f"{model} at {address} answered {answer.status}: {answer.error}")


def check_counters(what: str, before: Counters, after: Counters, requests: int, rows: int) -> None:
    """Raises Unstable when the server did not count what the client believes to have had.

    ``requests`` of ``rows`` rows each were answered for sure; the server may have counted more.
    """
    succeeded, inferences = after.succeeded - before.succeeded, after.inferences - before.inferences
    if succeeded < 0:
        raise Unstable(what, "the model was loaded anew in between")
    if after.failed > before.failed:
        raise Unstable(what, f"the server counted {after.failed - before.failed} failed requests")
    if succeeded < requests or inferences < requests * rows:
        raise Unstable(
            what,
            f"{requests} requests of {rows} rows were measured, and the server counted "
            f"{succeeded} with {inferences} inferences",
        )


async def reachable(control: str) -> bool:
    """Whether a fleet answers at a control address."""
    async with RunningFleet(control, "") as fleet:
        try:
            await fleet.status()
        except (FleetUnreachable, Refused):
            return False
    return True
