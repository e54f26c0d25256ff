"""A whole fleet on a thread of its own, for tests that talk to it as its users do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import urllib.error
import urllib.request

from tritonfleet.settings import resolve_settings
from tritonfleet.supervisor import Fleet, running_fleet


class Served:
    """A running fleet, as its users see it, and a door to its inside."""

    def __init__(self, fleet: Fleet, loop: asyncio.AbstractEventLoop):
        self.fleet, self._loop = fleet, loop
        self.gateway, self.control = fleet.addresses.gateway, fleet.addresses.control
        self.address = self.gateway.removeprefix("http://")
        self.grpc_address = fleet.addresses.grpc

    @property
    def brain(self):
        """What decides, which runs on the fleet's own event loop here."""
        return self.fleet.brain.brain

    @property
    def controller(self):
        """The controller of that."""
        return self.brain.controller

    def endpoint(self, server):
        """Where a tritonserver listens; None while it is down."""
        running = self.fleet.servers[server].running
        return running.endpoint if running else None

    def run(self, coroutine, timeout=60):
        """Runs something on the fleet's own event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def call(self, method, path, body=None, *, control=False, headers=None, timeout=60):
        """(status, JSON or None, headers) of one HTTP exchange; error statuses do not raise."""
        url = (self.control if control else self.gateway) + path
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, _parsed(answer.read()), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, _parsed(error.read()), error.headers

    def add(self, model, x=(1, 2, 3, 4), **tensor):
        """One request to an adder."""
        shape = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": list(x), **tensor}
        return self.call("POST", f"/v2/models/{model}/infer", {"inputs": [shape]})

    def status(self):
        return self.call("GET", "/v1/status", control=True)[1]

    def states(self):
        return {model["name"]: model["state"] for model in self.status()["models"]}


def _parsed(text):
    return json.loads(text) if text.strip() else None


@contextlib.contextmanager
def serving(spec, folder=None, *, isolated=False):
    """A fleet that serves until the block ends; ``isolated``: its brain is a process of its own."""
    started: dict[str, object] = {}
    ready, stop = threading.Event(), threading.Event()

    async def main():
        settings = resolve_settings(spec.settings)
        async with running_fleet(spec, settings, folder, isolated=isolated) as fleet:
            started["served"] = Served(fleet, asyncio.get_running_loop())
            ready.set()
            await asyncio.to_thread(stop.wait)

    def run():
        try:
            asyncio.run(main())
        except BaseException as error:  # handed to the test's own thread
            started["error"] = error
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(90)
    try:
        if "error" in started:
            raise started["error"]
        yield started["served"]
    finally:
        stop.set()
        thread.join(60)
    if "error" in started:
        raise started["error"]


def until(condition, timeout=30.0):
    """Waits for something that has no event to wait for; fails when it never comes."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)
    return value
