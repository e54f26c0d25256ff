"""A tritonserver with nobody in front of it: what a load costs without a fleet.

A second server beside the fleet's, on the same repository and the same backend. Its management API
is ours, so that it can be asked for exactly one load at a time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet_perf.inputs import Tensor, grpc_request
from tritonfleet import plugins
from tritonfleet.errors import InvalidSpec, Problem
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.server.client import TritonClient
from tritonfleet.server.layout import published_models
from tritonfleet.server.states import ReadyState

NAME = "bench-bare"
_LOAD_TIMEOUT_S = 600.0
_STOP_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class BareStart:
    """One load by Triton alone, and the first answer after it."""

    load_s: float
    infer_s: float

    @property
    def total_s(self) -> float:
        """What a client would have waited."""
        return self.load_s + self.infer_s


class BareTriton:
    """Loads and unloads models on a tritonserver of its own."""

    def __init__(self, client: TritonClient) -> None:
        self._client = client

    async def start(self, model: str, tensors: Sequence[Tensor]) -> BareStart:
        """Loads a model, asks it once, and leaves the server empty again.

        Raises LoadFailed, or InferenceRefused with Triton's reason.
        """
        request = grpc_request(model, tensors)
        started = time.perf_counter()
        await self._client.load(model, _LOAD_TIMEOUT_S)
        loaded = time.perf_counter()
        await self._client.infer(request, _LOAD_TIMEOUT_S)
        answered = time.perf_counter()
        await self._empty(model)
        return BareStart(loaded - started, answered - loaded)

    async def _empty(self, first: str) -> None:
        """Unloads a model and whatever came along with it, and waits until that is done."""
        states = await self._client.states()
        ready = [name for name, entry in states.items() if entry.state is ReadyState.READY]
        # An ensemble before its members, which would take it along.
        for model in sorted(ready, key=lambda name: name != first):
            await self._client.unload(model)
        for model in ready:
            await self._client.until_unloaded(model)


def check_repository(repository: Path, models: Iterable[str]) -> None:
    """Raises InvalidSpec when a repository lacks a model that the fleet serves."""
    missing = sorted(set(models) - set(published_models(repository)))
    if missing:
        message = f"does not hold {', '.join(missing)}, which the fleet serves"
        problem = Problem("repository", message, suggestion="name the fleet's with --repository")
        raise InvalidSpec(str(repository), (problem,))


@contextlib.asynccontextmanager
async def bare_triton(repository: Path, state_dir: Path) -> AsyncIterator[BareTriton]:
    """Loads one by one on a tritonserver of their own; raises LaunchError."""
    async with bare_server(repository, state_dir) as client:
        yield BareTriton(client)


@contextlib.asynccontextmanager
async def bare_server(repository: Path, state_dir: Path) -> AsyncIterator[TritonClient]:
    """A tritonserver on a repository, empty, for as long as the block lasts; raises LaunchError."""
    launcher = plugins.lookup("launchers", "embedded")()
    options = LaunchOptions(name=NAME, repository=repository, state_dir=state_dir)
    server = await launcher.start(options)
    client = TritonClient(NAME, server.endpoint)
    try:
        yield client
    finally:
        await client.close()
        await server.stop(_STOP_GRACE_S)
