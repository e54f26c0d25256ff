"""The controller and the direct way to its models, with both ends in the test's hand."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.controller.imitation import Triton, controlling, until
from tritonfleet.controller import controller as module
from tritonfleet.controller.controller import ServerHandle
from tritonfleet.controller.ledger import Phase
from tritonfleet.errors import ModelNotFound, ServerTimeout


class Ways:
    """Notes what is published, and withdraws when the test lets it."""

    def __init__(self):
        self.open: dict[str, str] = {}
        self.counted: dict[str, int] = {}
        self.looks = 0
        self.failures: list[Exception] = []
        self.withdrawn: list[str] = []
        self._held: dict[str, asyncio.Event] = {}

    def hold(self, model):
        """From now on a withdrawal waits until what is returned is set."""
        return self._held.setdefault(model, asyncio.Event())

    def publish(self, model, server):
        self.open[model] = server

    async def withdraw(self, model):
        if self.failures:
            raise self.failures.pop()
        self.open.pop(model, None)
        if model in self._held:
            await self._held[model].wait()
        self.withdrawn.append(model)

    async def in_flight(self):
        self.looks += 1
        if self.failures:
            raise self.failures.pop()
        return self.counted


async def used(controller, model):
    async with controller.lease(model) as lease:
        lease.proved()


async def test_a_model_is_published_when_its_first_caller_has_an_answer():
    ways = Ways()
    async with controlling(Triton(), {"bert": 4}, endpoints=ways) as controller:
        async with controller.lease("bert") as lease:
            assert ways.open == {}
            lease.proved()
            assert ways.open == {"bert": "gpu0"}


async def test_what_was_found_on_a_server_is_published_at_once():
    triton, ways = Triton(), Ways()
    triton.calls.append(("load", "bert"))
    async with controlling(triton, {"bert": 4}, endpoints=ways):
        assert ways.open == {"bert": "gpu0"}


async def test_nothing_is_unloaded_before_its_way_is_closed():
    triton, ways = Triton(), Ways()
    closing = ways.hold("bert")
    async with controlling(triton, {"bert": 8, "vit": 8}, endpoints=ways) as controller:
        await used(controller, "bert")
        waiting = asyncio.ensure_future(used(controller, "vit"))
        await until(lambda: not ways.open)
        assert controller.ledger.phase("bert") is Phase.DRAINING
        assert "unload" not in triton.verbs("bert")
        closing.set()
        await waiting
        assert "unload" in triton.verbs("bert")
        assert ways.open == {"vit": "gpu0"}


async def test_a_way_that_cannot_be_closed_is_tried_again(monkeypatch):
    monkeypatch.setattr(module, "UNLOAD_RETRY_S", 0.001)
    triton, ways = Triton(), Ways()
    async with controlling(triton, {"bert": 8}, endpoints=ways) as controller:
        await used(controller, "bert")
        ways.failures = [ServerTimeout("envoy", "withdraw", 1.0)]
        await controller.unload("bert")
        assert ways.withdrawn == ["bert"]


async def test_whoever_has_requests_under_way_is_spared():
    triton, ways = Triton(), Ways()
    models = {"bert": 5, "vit": 5, "llm": 5}
    async with controlling(triton, models, endpoints=ways, fresh_s=0.05) as controller:
        await used(controller, "bert")
        await used(controller, "vit")
        ways.counted = {"bert": 1}
        await used(controller, "llm")
        assert ways.open == {"bert": "gpu0", "llm": "gpu0"}


async def test_nobody_looks_while_there_is_room():
    triton, ways = Triton(), Ways()
    async with controlling(triton, {"bert": 5, "vit": 5}, endpoints=ways, fresh_s=0) as controller:
        await used(controller, "bert")
        await used(controller, "vit")
    assert ways.looks == 0


@pytest.mark.parametrize("error", [ServerTimeout("envoy", "stats", 1.0), RuntimeError("a bug")])
async def test_a_look_that_fails_leaves_nobody_waiting(error):
    triton, ways = Triton(), Ways()
    async with controlling(
        triton, {"bert": 8, "vit": 8}, endpoints=ways, fresh_s=0.05
    ) as controller:
        await used(controller, "bert")
        ways.failures = [error]
        await used(controller, "vit")
    assert not ways.failures


async def test_uses_that_a_server_counts_choose_who_stays():
    triton, ways = Triton(), Ways()
    models = {"bert": 5, "vit": 5, "llm": 5}
    async with controlling(triton, models, endpoints=ways, fresh_s=0.05) as controller:
        await used(controller, "bert")
        await used(controller, "vit")
        triton.used["bert"] = int(time.time() * 1000) + 1000
        await used(controller, "llm")
        assert ways.open == {"bert": "gpu0", "llm": "gpu0"}


async def test_the_models_of_a_dead_server_are_withdrawn_and_nobody_waits_for_that():
    triton, ways = Triton(), Ways()
    ways.hold("bert")
    async with controlling(triton, {"bert": 4}, endpoints=ways) as controller:
        await used(controller, "bert")
        await controller.server_lost("gpu0")
        assert controller.ledger.phase("bert") is None
        await until(lambda: not ways.open)


async def test_a_version_is_no_model_to_those_who_ask_from_outside():
    async with controlling(Triton(), {"bert": 4}) as controller:
        with pytest.raises(ModelNotFound):
            async with controller.lease("bert@2"):
                pass


async def test_a_server_that_was_only_out_of_reach_is_emptied_before_it_is_used_again():
    triton = Triton()
    async with controlling(triton, {"bert": 4, "vit": 4}) as controller:
        await used(controller, "bert")
        await controller.server_lost("gpu0")
        assert triton.verbs("bert")[-1] != "unload"
        await controller.server_back("gpu0", ServerHandle(triton, None, None))
        await used(controller, "bert")
        verbs = triton.verbs("bert")
        assert verbs.index("unload") < verbs.index("until_unloaded")
        assert verbs[verbs.index("until_unloaded") :].count("load") == 1
        assert not triton.verbs("vit")


@pytest.mark.parametrize("attached", [False, True])
async def test_a_model_that_is_not_the_fleets_stays_only_where_the_server_is_somebody_elses(
    attached, caplog
):
    triton = Triton()
    triton.calls.append(("load", "stranger"))
    async with controlling(triton, {"bert": 4}, attached=attached) as controller:
        await controller.server_lost("gpu0")
        handle = ServerHandle(triton, None, None, attached=attached)
        await controller.server_back("gpu0", handle)
        await used(controller, "bert")
    assert ("unload" in triton.verbs("stranger")) != attached
    assert "stranger" in caplog.text
    assert controller.ledger.names == ("bert",)
