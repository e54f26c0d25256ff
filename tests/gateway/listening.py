"""Small HTTP servers, and the activator's front between one of them and a client."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.gateway.fleet import Fleet, endpoint
from tritonfleet.gateway.activator import Activator
from tritonfleet.gateway.desk import Desk, Rules
from tritonfleet.gateway.relay import Relay
from tritonfleet.gateway.shared_memory import SharedMemory
from tritonfleet.server.pbtxt import parse_config


@contextlib.asynccontextmanager
async def listening(handler, **options):
    """A server on a free port, whatever the path; gives its ``host:port``."""
    app = web.Application(client_max_size=0, **options)
    app.router.add_route("*", "/{path:.*}", handler)
    async with running(app) as address:
        yield address


@contextlib.asynccontextmanager
async def running(app):
    """An application on a free port, with bodies and departures left alone as the fleet does."""
    runner = web.AppRunner(app, auto_decompress=False, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


@dataclass
class Seen:
    """One request as Triton got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeTriton:
    """Answers 200 and notes what it was asked; a test says what else it answers, in turn."""

    answers: list = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    async def answer(self, request):
        body = await request.content.read()
        self.seen.append(Seen(request.method, request.raw_path, dict(request.headers), body))
        if self.answers:
            status, text = self.answers.pop(0)
            return web.json_response({"error": text}, status=status)
        return web.json_response({"model_name": "as Triton says"})

    @property
    def paths(self):
        return [seen.path for seen in self.seen]


@dataclass
class Front:
    """The activator as Envoy sees it, over one server that may be anything."""

    fleet: Fleet
    desk: Desk
    activator: Activator
    session: aiohttp.ClientSession
    url: str

    def call(self, method, path, **options):
        """One exchange; the path goes out as it is written."""
        return self.session.request(
            method, aiohttp.client.URL(self.url + path, encoded=True), **options
        )

    async def status(self, method, path, **options):
        """(status, what the answer says, headers)."""
        async with self.call(method, path, **options) as answer:
            text = await answer.text()
            said = await answer.json() if text else None
            return answer.status, said, answer.headers


@contextlib.asynccontextmanager
async def fronted(upstream, *, fleet=None, models=("one", "two"), pid=1, **rules):
    """The activator in front of a FakeTriton, or of any handler that plays one."""
    async with listening(getattr(upstream, "answer", upstream)) as address:
        fleet = fleet or Fleet()
        fleet.endpoints["gpu0"] = endpoint(address, pid=pid)
        async with front(fleet, Rules(models=models, **rules)) as made:
            yield made


@contextlib.asynccontextmanager
async def front(fleet, rules):
    """The activator over whatever servers the fleet has."""
    relay, desk = Relay(), Desk(fleet, rules)
    activator = Activator(
        fleet,
        desk,
        relay,
        SharedMemory(fleet, desk),
        version="1.2.3",
        configs=config,
        versions=lambda _: (1, 2),
    )
    await relay.start()
    try:
        async with running(activator.application()) as gateway:
            async with aiohttp.ClientSession(auto_decompress=False) as session:
                yield Front(fleet, desk, activator, session, f"http://{gateway}")
    finally:
        await relay.stop()


def config(model):
    """A model of one input."""
    return parse_config(
        model,
        f'name: "{model}" backend: "onnxruntime" max_batch_size: 4 '
        'input [{name: "x" data_type: TYPE_FP32 dims: [1]}] '
        'output [{name: "y" data_type: TYPE_FP32 dims: [1]}]',
    )
