"""The control API: rollouts, counters, and whom it turns away."""

from __future__ import annotations

import contextlib

import aiohttp
import pytest

from tests.controller.imitation import Triton, controlling
from tests.gateway.listening import running
from tritonfleet.errors import RolloutRefused
from tritonfleet.gateway.control import ControlApi
from tritonfleet.gateway.desk import Asked, Desk, Rules
from tritonfleet.talk import Addresses


class Rollouts:
    """Notes what it is asked for."""

    def __init__(self):
        self.did = []

    def status(self, model):
        return {"model": model, "stable": 1, "did": len(self.did)}

    async def start(self, model, version, percent):
        if version == 9:
            raise RolloutRefused(model, "version 9 is not published.")
        self.did.append(("start", model, version, percent))

    async def promote(self, model):
        self.did.append(("promote", model))

    async def rollback(self, model, version):
        self.did.append(("rollback", model, version))


class Control:
    """A control API, its parts, and a client."""

    def __init__(self, session, url, desk, rollouts):
        self.session, self.url, self.desk, self.rollouts = session, url, desk, rollouts

    async def status(self, method, path, **options):
        async with self.session.request(method, self.url + path, **options) as answer:
            return answer.status, await answer.json()


@contextlib.asynccontextmanager
async def controlled():
    """A control API over a real controller."""
    async with controlling(Triton(), {"one": 6, "two": 6}) as controller:
        desk, rollouts = Desk(controller, Rules(models=("one", "two"))), Rollouts()
        addresses = Addresses("http://127.0.0.1:3", "http://127.0.0.1:1", "127.0.0.1:2")
        api = ControlApi(
            controller,
            desk,
            rollouts,
            fleet="demo",
            addresses=lambda: addresses,
            descriptions={"one": "the first"},
        )
        async with running(api.application()) as address:
            async with aiohttp.ClientSession() as session:
                yield Control(session, f"http://{address}", desk, rollouts)


async def test_the_status_shows_addresses_and_what_came_to_python():
    async with controlled() as control:
        async with control.desk.admit(Asked("one", size_bytes=1000)):
            _, status = await control.status("GET", "/v1/status")
        assert (status["fleet"], status["grpc"]) == ("demo", "127.0.0.1:2")
        assert status["gateway"] == "http://127.0.0.1:1"
        activator = status["activator"]
        assert (activator["requests"], activator["held"]) == (1, 1)
        assert activator["held_bytes"] > 1000
        _, status = await control.status("GET", "/v1/status")
        assert status["activator"] == {"requests": 1, "held": 0, "held_bytes": 0}


async def test_a_model_is_loaded_and_unloaded():
    async with controlled() as control:
        assert (await control.status("POST", "/v1/models/one/load"))[1]["state"] == "READY"
        assert (await control.status("POST", "/v1/models/one/unload"))[1]["state"] == "UNAVAILABLE"


@pytest.mark.parametrize("path", ["load", "unload", "pin", "unpin", "rollout"])
@pytest.mark.parametrize("name", ["nope", "one@2"])
async def test_what_is_no_model_is_404(path, name):
    async with controlled() as control:
        assert (await control.status("POST", f"/v1/models/{name}/{path}"))[0] == 404


# -- rollouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "did"),
    [
        ({"action": "start"}, ("start", "one", None, None)),
        ({"action": "start", "version": 3}, ("start", "one", 3, None)),
        ({"action": "canary", "percent": 5}, ("start", "one", None, 5.0)),
        ({"action": "canary", "version": 3, "percent": 0}, ("start", "one", 3, 0.0)),
        ({"action": "promote"}, ("promote", "one")),
        ({"action": "rollback"}, ("rollback", "one", None)),
        ({"action": "rollback", "version": 2}, ("rollback", "one", 2)),
    ],
)
async def test_a_rollout_is_done_as_it_is_asked_for(wish, did):
    async with controlled() as control:
        status, said = await control.status("POST", "/v1/models/one/rollout", json=wish)
        assert (status, said["did"]) == (200, 1)
        assert control.rollouts.did == [did]
        assert (await control.status("GET", "/v1/models/one/rollout"))[1] == said


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"action": "explode"},
        {"action": ["start"]},
        {"action": "start", "version": 0},
        {"action": "start", "version": "3"},
        {"action": "start", "version": True},
        {"action": "canary", "percent": 101},
        {"action": "canary", "percent": -0.1},
        {"action": "canary", "percent": "5"},
        {"action": "canary", "percent": 10**400},
    ],
)
async def test_a_rollout_that_makes_no_sense_is_400(wish):
    async with controlled() as control:
        assert (await control.status("POST", "/v1/models/one/rollout", json=wish))[0] == 400
        assert control.rollouts.did == []


async def test_a_rollout_that_cannot_be_is_409():
    async with controlled() as control:
        wish = {"action": "start", "version": 9}
        status, said = await control.status("POST", "/v1/models/one/rollout", json=wish)
        assert (status, "is not published" in said["error"]) == (409, True)


# -- who is turned away --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8003"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:8003"}, 200),
        ({"Host": "127.8.8.8:1", "Origin": "http://localhost:8003"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8003"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "127.0.0.1@evil.example"}, 403),
        ({"Host": "10.0.0.1"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_a_foreign_page_cannot_use_the_browser_of_this_machine(headers, status):
    async with controlled() as control:
        got, said = await control.status("GET", "/v1/status", headers=headers)
        assert got == status
        assert status == 200 or "the control API" in said["error"]
