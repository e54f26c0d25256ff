"""The controller's promises to its callers, on a server that the test holds in its hand."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.controller.fleet import ledger
from tests.controller.imitation import Triton, controlling, until
from tests.server.telling import Backend
from tritonfleet.controller import controller as module
from tritonfleet.controller.controller import Controller
from tritonfleet.controller.footprint import Home
from tritonfleet.controller.ledger import ModelFacts, Phase
from tritonfleet.errors import FleetSaturated, LoadFailed


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


# -- proof ---------------------------------------------------------------------------------------


async def test_a_waiting_caller_gets_the_model_without_an_inference_of_ours():
    triton = Triton()
    async with controlling(triton, {"bert": 4}) as controller:
        async with controller.lease("bert") as lease:
            assert lease.cold
            assert not controller.ledger.is_proved("bert")
            lease.proved()
            assert controller.ledger.is_proved("bert")
        assert triton.verbs("bert").count("infer") == 0


async def test_a_caller_who_got_no_answer_leaves_the_proof_to_us():
    triton = Triton()
    async with controlling(triton, {"bert": 4}) as controller:
        async with controller.lease("bert"):
            pass
        await until(lambda: controller.ledger.is_proved("bert"))
        assert triton.verbs("bert") == ["load", "infer", "statistics"]


async def test_a_model_that_fails_the_proof_is_taken_out_and_says_why():
    triton = Triton()
    triton.broken.add("bert")
    async with controlling(triton, {"bert": 4}) as controller:
        async with controller.lease("bert"):
            pass
        await until(lambda: triton.verbs("bert")[-1] == "unload")
        assert controller.ledger.phase("bert") is None
        with pytest.raises(LoadFailed, match="nobody answers"):
            async with controller.lease("bert"):
                pass


async def test_an_answer_that_comes_before_our_proof_fails_is_believed():
    triton = Triton()
    triton.broken.add("bert")
    ours = triton.hold("infer", "bert")
    async with controlling(triton, {"bert": 4}) as controller:
        async with controller.lease("bert"):
            pass
        await until(lambda: "infer" in triton.verbs("bert"))
        async with controller.lease("bert") as lease:
            lease.proved()
            ours.set()
            await asyncio.sleep(0.01)
            assert controller.ledger.ready_on("bert") == "gpu0"
        assert "unload" not in triton.verbs("bert")


async def test_an_ensembles_answer_proves_its_members():
    models = [ModelFacts("a", 2), ModelFacts("b", 2), ModelFacts("both", 0, requires=("a", "b"))]
    triton = Triton()
    async with controlling(triton, models) as controller:
        async with controller.lease("both") as lease:
            lease.proved()
        assert all(controller.ledger.is_proved(name) for name in ("a", "b", "both"))
    assert not any(verb == "infer" for verb, _ in triton.calls)


async def test_a_load_that_nobody_waits_to_use_is_proved_before_it_is_ready():
    triton = Triton()
    proof = triton.hold("infer", "bert")
    async with controlling(triton, {"bert": 4}) as controller:
        loading = asyncio.ensure_future(controller.load("bert"))
        await until(lambda: "infer" in triton.verbs("bert"))
        assert controller.ledger.phase("bert") is Phase.LOADING
        proof.set()
        assert await loading == "gpu0"
        assert controller.ledger.is_proved("bert")


async def test_a_model_that_has_not_answered_yet_is_not_unloaded_for_another():
    triton = Triton()
    async with controlling(triton, {"bert": 8, "vit": 8}) as controller:
        async with controller.lease("bert") as lease:
            other = asyncio.ensure_future(controller.load("vit"))
            await asyncio.sleep(0.01)
            lease.proved()
        await other
        assert triton.verbs("bert") == ["load", "statistics", "unload", "until_unloaded"]


# -- unloads -------------------------------------------------------------------------------------


@pytest.fixture
def telling(events):
    """A server whose 'bert' tells of itself and whose other models do not."""
    with contextlib.closing(Backend(events.path)) as backend:
        triton = Triton(backend)
        triton.sizes["bert"] = 6
        yield triton


async def used(controller, model):
    async with controller.lease(model) as lease:
        lease.proved()


async def test_an_unload_ends_when_the_model_tells_that_it_is_gone(telling, events):
    async with controlling(telling, {"bert": 4, "vit": 8}, events=events) as controller:
        await used(controller, "bert")
        await used(controller, "vit")
    assert telling.verbs("bert") == ["load", "unload"]


async def test_a_model_that_tells_nothing_is_unloaded_when_the_index_says_so(telling, events):
    async with controlling(telling, {"bert": 4, "vit": 8}, events=events) as controller:
        await used(controller, "vit")
        await used(controller, "bert")
    assert telling.verbs("vit")[-2:] == ["unload", "until_unloaded"]


async def test_a_lost_farewell_is_made_up_for_by_the_index(telling, events, monkeypatch):
    monkeypatch.setattr(module, "DEPARTURE_S", 0.01)
    telling.silent.add("bert")
    async with controlling(telling, {"bert": 4}, events=events) as controller:
        await used(controller, "bert")
        await until(lambda: events.bytes_of("bert") is not None)
        await controller.unload("bert")
    assert telling.verbs("bert") == ["load", "unload", "until_unloaded"]
    assert events.bytes_of("bert") is None


async def test_an_ensemble_is_not_searched_for_processes():
    class Processes:
        def __init__(self):
            self.asked = []

        def model_bytes(self, model):
            return None

        def release(self, model):
            self.asked.append(model)
            return False

    memory = Processes()
    models = [ModelFacts("a", 2), ModelFacts("both", 0, requires=("a",))]
    async with controlling(Triton(), models, memory=memory) as controller:
        await used(controller, "both")
        await controller.unload("a")
    assert memory.asked == ["a"]


# -- footprints ----------------------------------------------------------------------------------


async def test_what_a_model_tells_is_charged_at_once(telling, events):
    async with controlling(telling, {"bert": 4}, events=events) as controller:
        await used(controller, "bert")
        await until(lambda: controller.ledger.footprint("bert") == 6)
        telling.backend.tell("memory", size=7)
        await until(lambda: controller.ledger.occupied("gpu0") == 7)
    assert controller.recorded == [("bert", Home.SERVER, 6), ("bert", Home.SERVER, 7)]


async def test_the_same_figure_again_is_not_recorded_again(telling, events):
    async with controlling(telling, {"bert": 4}, events=events) as controller:
        for _ in range(3):
            await used(controller, "bert")
            await until(lambda: events.bytes_of("bert") is not None)
            await controller.unload("bert")
    assert controller.recorded == [("bert", Home.SERVER, 6)]


async def test_a_model_in_a_process_is_measured_after_its_first_answer():
    class Processes:
        def __init__(self):
            self.answered = False

        def model_bytes(self, model):
            return 5 if self.answered else 3

    memory = Processes()
    async with controlling(Triton(), {"bert": 4}, memory=memory) as controller:
        async with controller.lease("bert") as lease:
            memory.answered = True
            lease.proved()
        await until(lambda: controller.recorded)
    assert controller.recorded == [("bert", Home.PROCESS, 5)]


async def test_without_events_and_processes_tritons_statistics_are_believed():
    triton = Triton()
    triton.reported["bert"] = 6
    async with controlling(triton, {"bert": 4}) as controller:
        await used(controller, "bert")
        await until(lambda: controller.recorded)
    assert controller.recorded == [("bert", Home.SERVER, 6)]
