"""The controller's promises to its callers, where no server needs to do anything."""

from __future__ import annotations

import asyncio

import pytest

from tests.controller.fleet import ledger
from tritonfleet.controller.controller import Controller
from tritonfleet.controller.ledger import ModelFacts
from tritonfleet.errors import FleetSaturated


def controller_with(*models):
    """A controller whose models are all READY already."""
    book = ledger(models, capacity=100)
    for model in models:
        book.adopt(model.name, "gpu0", 0.0)
    return Controller(book, {}, configs=lambda _: None)


async def test_a_resident_model_is_warm_and_held_only_while_leased():
    controller = controller_with(ModelFacts("bert", 4))
    async with controller.lease("bert") as lease:
        assert (lease.server, lease.cold, lease.waited_s) == ("gpu0", False, 0.0)
        assert controller.ledger.residents(0.0)[0].leases == 1
    assert controller.ledger.residents(0.0)[0].leases == 0


async def test_a_caller_who_waits_for_its_turn_on_a_resident_model_was_not_cold():
    controller = controller_with(ModelFacts("bert", 4, max_concurrency=1))
    async with controller.lease("bert"):
        second = asyncio.ensure_future(controller.lease("bert").__aenter__())
        await asyncio.sleep(0)
        assert controller.ledger.waiting("bert") == 1
    lease = await second
    assert lease.waited_s > 0
    assert not lease.cold


async def test_a_caller_who_is_cancelled_leaves_nothing_behind():
    controller = controller_with(ModelFacts("bert", 4, max_concurrency=1))
    async with controller.lease("bert"):
        waiting = asyncio.ensure_future(controller.lease("bert").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert controller.ledger.waiting("bert") == 0


async def test_a_caller_is_refused_when_its_time_is_up():
    controller = controller_with(ModelFacts("bert", 4, max_concurrency=1))
    async with controller.lease("bert"):
        with pytest.raises(FleetSaturated, match="max_concurrency is in use"):
            async with controller.lease("bert", timeout_s=0.01):
                pass
