"""A tritonserver as the controller sees it, with every answer in the test's hand."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

from tests.controller.fleet import ledger
from tritonfleet.controller.controller import Controller, ServerHandle
from tritonfleet.errors import LoadFailed
from tritonfleet.server.pbtxt import parse_config
from tritonfleet.server.states import IndexEntry, ReadyState


class Triton:
    """Does at once what it is asked, unless the test holds it back; notes what it was asked."""

    name = "gpu0"
    endpoint = SimpleNamespace(http="127.0.0.1:1", grpc="127.0.0.1:2", pid=None)

    def __init__(self, backend=None):
        self.calls: list[tuple[str, str]] = []
        self.backend, self.sizes = backend, {}
        self.broken: set[str] = set()
        self.silent: set[str] = set()
        self.reported: dict[str, int] = {}
        self.used: dict[str, int] = {}
        self._held: dict[tuple[str, str], asyncio.Event] = {}

    def hold(self, verb, model):
        """From now on this waits until what is returned is set."""
        return self._held.setdefault((verb, model), asyncio.Event())

    async def load(self, model, _, *, config=""):
        await self._called("load", model)
        if model in self.sizes:
            self.backend.tell("loaded", model, size=self.sizes[model])

    async def infer(self, request, _):
        await self._called("infer", request.model_name)
        if request.model_name in self.broken:
            raise LoadFailed(request.model_name, "nobody answers")

    async def unload(self, model):
        await self._called("unload", model)
        if model in self.sizes and model not in self.silent:
            self.backend.tell("unloaded", model)

    async def until_unloaded(self, model, _version=None):
        await self._called("until_unloaded", model)

    async def index(self):
        loaded = dict.fromkeys(model for verb, model in self.calls if verb == "load")
        return [IndexEntry(model, "1", ReadyState.READY, "") for model in loaded]

    async def statistics(self, model=""):
        self.calls.append(("statistics", model))
        return {
            name: SimpleNamespace(
                last_inference_ms=self.used.get(name, 0), memory_bytes=self.reported.get(name, 0)
            )
            for name in (*self.reported, *self.used)
            if model in ("", name)
        }

    async def version_statistics(self):
        return {}

    async def close(self):
        pass

    def verbs(self, model):
        """What was asked about one model, in order."""
        return [verb for verb, about in self.calls if about == model]

    async def _called(self, verb, model):
        self.calls.append((verb, model))
        held = self._held.get((verb, model))
        if held is not None:
            await held.wait()


def config(model):
    return parse_config(
        model, f'name: "{model}" input [{{name: "x" data_type: TYPE_FP32 dims: [1]}}]'
    )


@contextlib.asynccontextmanager
async def controlling(
    triton,
    models,
    *,
    events=None,
    memory=None,
    capacity=10,
    endpoints=None,
    rollouts=None,
    attached=False,
    **options,
):
    """A controller over one imitated server, for as long as the block lasts."""
    recorded: list[tuple[str, object, int]] = []

    def record(model, home, size):
        recorded.append((model, home, size))
        return size

    book = ledger(models, capacity=capacity, **options)
    handle = ServerHandle(triton, memory, events, attached)
    controller = Controller(
        book,
        {"gpu0": handle},
        configs=config,
        record=record,
        endpoints=endpoints,
        rollouts=rollouts,
    )
    controller.recorded = recorded
    await controller.start()
    try:
        yield controller
    finally:
        await controller.stop()


async def until(condition):
    """Lets the event loop run until something is so; fails when it never comes about."""

    async def so():
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)

    await asyncio.wait_for(so(), 10)
