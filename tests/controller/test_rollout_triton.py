"""New versions come into service on a real tritonserver, and old ones come back."""

from __future__ import annotations

import asyncio
import contextlib
import os

import numpy
import pytest

from tests.controller.fleet import ledger
from tests.controller.imitation import until
from tests.controller.versions import Notes, publish
from tritonfleet.controller.controller import Controller, ProcessMemory, ServerHandle
from tritonfleet.controller.ledger import ModelFacts, Phase
from tritonfleet.controller.rollout import Rollouts
from tritonfleet.errors import LoadFailed, RolloutRefused
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.embedded import EmbeddedLauncher
from tritonfleet.launchers.native import choose_backend
from tritonfleet.server.client import InferenceRefused, TritonClient
from tritonfleet.server.inference import answer_tensors, inference_request
from tritonfleet.server.pbtxt import read_config
from tritonfleet.spec.traffic import RolloutSpec

pytestmark = pytest.mark.triton

MIB = 2**20
CLIENTS = 4
AMPLE = 400 * MIB
TIGHT = {"native": 24 * MIB, "python": 80 * MIB}
"""Room for one version and not for two: the native backend takes little beside the weights."""
NATIVE = choose_backend("auto", os.environ)
BACKENDS = [
    "python",
    pytest.param("native", marks=pytest.mark.skipif(NATIVE.native is None, reason=str(NATIVE))),
]


@pytest.fixture(params=BACKENDS)
async def running(tmp_path, request):
    """A tritonserver over a repository with one version of 'one'."""
    repository = tmp_path / "repository"
    publish(repository, "one", 1, megabytes=4)
    publish(repository, "two", 100)
    server = await EmbeddedLauncher().start(
        LaunchOptions("gpu0", repository, tmp_path / "state", onnxruntime_backend=request.param)
    )
    yield server, repository
    await server.stop(5)


class Fleet:
    """A controller over that server, and what its clients see."""

    def __init__(self, server, repository, traffic, rule, capacity, state, watch):
        self.repository, self.traffic = repository, traffic
        self.rollouts = Rollouts(
            repository, rules=lambda _: rule, state=state, traffic=traffic, watch=watch
        )
        book = ledger([ModelFacts("one", 20 * MIB), ModelFacts("two", 20 * MIB)], capacity)
        memory = ProcessMemory(server.endpoint.pid)
        handle = ServerHandle(TritonClient("gpu0", server.endpoint), memory, server.events)
        self.controller = Controller(
            book,
            {"gpu0": handle},
            configs=lambda model: read_config(repository, model),
            rollouts=self.rollouts,
        )
        self.client = handle.client

    async def ask(self, version="", model="one"):
        """What is added to 1, as whoever holds a lease sees it; with the version that did it."""
        async with self.controller.lease(model, version=version) as lease:
            config = read_config(self.repository, model)
            tensors = {"x": numpy.ones((1, 4), numpy.float32)}
            request = inference_request(config, tensors, version=lease.version)
            answer = await self.client.infer(request, 30)
            lease.proved()
            (output,) = answer_tensors(answer).values()
            return float(output[0, 0]) - 1

    def phases(self):
        names = ("one", *self.controller.ledger.versions_of("one"))
        return {name: self.controller.ledger.phase(name) for name in names}


@pytest.fixture
async def started(running, tmp_path):
    """Starts a controller, as often as the test likes: one after the other."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(strategy="swap", percent=10.0, tight=False, watch=False):
            rule = RolloutSpec(strategy=strategy, percent=percent)
            native = running[0].onnxruntime_backend.startswith("native")
            capacity = TIGHT["native" if native else "python"] if tight else AMPLE
            fleet = Fleet(*running, Notes(), rule, capacity, tmp_path / "rollouts.json", watch)
            await fleet.controller.start()
            stack.push_async_callback(fleet.controller.stop)
            return fleet

        yield start


async def flat_out(fleet, answers):
    """One client without a pause; an error ends it, and the test."""
    while True:
        answers.append(await fleet.ask())


@contextlib.asynccontextmanager
async def under_load(fleet):
    """Clients without a pause while the block lasts; none of them may see an error."""
    answers: list[float] = []
    clients = [asyncio.create_task(flat_out(fleet, answers)) for _ in range(CLIENTS)]
    try:
        yield answers
        await asyncio.sleep(0.05)
    finally:
        ended = [client for client in clients if client.done()]
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    for client in ended:
        client.result()


async def test_a_new_version_takes_over_under_load_and_nobody_notices(started):
    fleet = await started()
    assert await fleet.ask() == 1
    publish(fleet.repository, "one", 2, megabytes=4)
    async with under_load(fleet) as answers:
        await fleet.rollouts.arrived("one", 1, 2)
        await until(lambda: 2 in answers)
    assert set(answers) == {1, 2}
    # What was under way at that moment comes to its end.
    assert answers[answers.index(2) :].count(1) <= CLIENTS
    assert fleet.phases() == {"one": Phase.READY, "one@1": Phase.READY}
    # Held back until it was proved, then left to Triton.
    assert fleet.traffic.told == [("split", 1, None), ("split", None, None)]
    assert await fleet.ask("1") == 1


async def test_the_old_version_leaves_when_its_room_is_needed(started):
    fleet = await started()
    await fleet.ask()
    publish(fleet.repository, "one", 2, megabytes=4)
    await fleet.rollouts.start("one")
    assert fleet.phases()["one@1"] is Phase.READY
    await fleet.controller.unload("one@1")
    assert fleet.phases() == {"one": Phase.READY, "one@1": None}
    assert await fleet.controller.loaded_versions("one") == (2,)
    assert await fleet.ask() == 2


async def test_a_rollback_is_instant_while_the_old_version_is_there(started):
    fleet = await started()
    await fleet.ask()
    publish(fleet.repository, "one", 2, megabytes=4)
    await fleet.rollouts.start("one")
    await fleet.rollouts.rollback("one")
    assert await fleet.ask() == 1
    assert fleet.traffic.told[-1] == ("split", 1, None)
    assert fleet.rollouts.status("one")["stable"] == 1


async def test_a_rollback_loads_the_old_version_when_it_has_left(started):
    fleet = await started()
    await fleet.ask()
    publish(fleet.repository, "one", 2, megabytes=4)
    await fleet.rollouts.start("one")
    await fleet.controller.unload("one@1")
    await fleet.rollouts.rollback("one")
    assert await fleet.ask() == 1
    await fleet.controller.unload("one")
    assert await fleet.ask() == 1


async def test_versions_that_do_not_fit_together_change_places_while_requests_wait(started):
    fleet = await started(tight=True)
    await fleet.ask()
    publish(fleet.repository, "one", 2, megabytes=4)
    async with under_load(fleet) as answers:
        await fleet.rollouts.start("one")
        await until(lambda: 2 in answers)
    assert set(answers) == {1, 2}
    assert fleet.phases() == {"one": Phase.READY}
    assert await fleet.controller.loaded_versions("one") == (2,)


@pytest.mark.parametrize("tight", [False, True])
async def test_a_version_that_does_not_load_leaves_the_old_one_serving(started, tight):
    fleet = await started(tight=tight)
    await fleet.ask()
    publish(fleet.repository, "one", None)
    async with under_load(fleet) as answers:
        with pytest.raises(LoadFailed):
            await fleet.rollouts.start("one")
    assert set(answers) == {1}
    assert "model.onnx" in fleet.rollouts.status("one")["failed"]["2"]
    await fleet.controller.unload("one")
    assert await fleet.ask() == 1


async def test_a_broken_version_of_a_model_that_is_not_in_memory_gives_way_to_the_old(started):
    fleet = await started()
    publish(fleet.repository, "one", None)
    await fleet.rollouts.arrived("one", 1, 2)
    assert await fleet.ask() == 1
    publish(fleet.repository, "one", 3)
    await fleet.rollouts.arrived("one", 2, 3)
    assert await fleet.ask() == 3


async def test_a_canary_gets_its_share_only_once_it_has_answered(started):
    fleet = await started("canary", 25.0)
    await fleet.ask()
    publish(fleet.repository, "one", 2, megabytes=4)
    async with under_load(fleet) as answers:
        await fleet.rollouts.arrived("one", 1, 2)
    assert set(answers) == {1}
    assert await fleet.ask("2") == 2
    assert fleet.traffic.told == [("split", 1, 2), ("share", 25.0)]
    assert fleet.rollouts.status("one")["canary"] == 2


async def test_a_canary_is_promoted(started):
    fleet = await started("canary")
    await fleet.ask()
    publish(fleet.repository, "one", 2, megabytes=4)
    await fleet.rollouts.start("one")
    async with under_load(fleet) as answers:
        await fleet.rollouts.promote("one")
    assert set(answers) <= {1, 2}
    assert await fleet.ask() == 2
    assert fleet.traffic.told[-2:] == [("share", 0.0), ("split", None, None)]
    await fleet.rollouts.rollback("one")
    assert await fleet.ask() == 1


async def test_a_canary_is_rolled_back_at_once(started):
    fleet = await started("canary")
    await fleet.ask()
    publish(fleet.repository, "one", 2, megabytes=4)
    await fleet.rollouts.start("one")
    await fleet.rollouts.rollback("one")
    assert ("share", 0.0) in fleet.traffic.told
    assert await fleet.ask() == 1
    with pytest.raises(RolloutRefused, match="on trial"):
        await fleet.rollouts.promote("one")


async def test_a_canary_that_leaves_for_others_loses_its_share_and_comes_back_with_its_model(
    started,
):
    fleet = await started("canary")
    await fleet.ask()
    publish(fleet.repository, "one", 2, megabytes=4)
    await fleet.rollouts.start("one")
    await fleet.controller.unload("one")
    assert fleet.traffic.told[-1] == ("share", 0.0)
    assert await fleet.controller.loaded_versions("one") == ()
    assert await fleet.ask() == 1
    await until(lambda: fleet.traffic.told[-1] == ("share", 10.0))
    assert await fleet.controller.loaded_versions("one") == (1, 2)


async def test_a_restarted_controller_finds_the_canary_as_it_was(started):
    fleet = await started("canary")
    await fleet.ask()
    publish(fleet.repository, "one", 2, megabytes=4)
    await fleet.rollouts.start("one")
    await fleet.controller.stop()
    again = await started("canary")
    assert again.phases() == {"one": Phase.READY, "one@2": Phase.READY}
    assert await again.ask() == 1
    assert again.traffic.told[0] == ("split", 1, 2)
    await again.rollouts.promote("one")
    assert await again.ask() == 2


async def test_nothing_happens_before_it_is_asked_for_where_rollouts_are_manual(started):
    fleet = await started("manual")
    await fleet.ask()
    publish(fleet.repository, "one", 2, megabytes=4)
    await fleet.rollouts.arrived("one", 1, 2)
    await fleet.controller.unload("one")
    assert await fleet.ask() == 1
    await fleet.rollouts.start("one")
    assert await fleet.ask() == 2


async def test_versions_of_different_tensors_change_places_while_requests_wait_and_back(started):
    fleet = await started()
    await fleet.ask()
    publish(fleet.repository, "one", 2, megabytes=4, output="z")
    with pytest.raises(RolloutRefused, match="different tensors"):
        await fleet.rollouts.start("one", 2, 10.0)
    async with under_load(fleet) as answers:
        await fleet.rollouts.start("one")
        await fleet.rollouts.rollback("one")
    assert set(answers) <= {1, 2}
    assert await fleet.controller.loaded_versions("one") == (1,)
    assert await fleet.ask() == 1


async def test_a_pinned_model_gets_its_new_version_although_there_is_room_for_one_only(started):
    fleet = await started(tight=True)
    fleet.controller.pin("one")
    assert await fleet.ask() == 1
    publish(fleet.repository, "one", 2, megabytes=4)
    await fleet.rollouts.start("one")
    assert await fleet.ask() == 2
    assert fleet.controller.ledger.is_pinned("one")


async def test_what_was_published_while_the_fleet_was_down_comes_into_service_at_its_start(
    started,
):
    fleet = await started()
    assert await fleet.ask() == 1
    await fleet.controller.stop()
    publish(fleet.repository, "one", 2, megabytes=4)
    again = await started(watch=True)
    await until(lambda: again.traffic.told[-1:] == [("split", None, None)])
    assert await again.ask() == 2
    publish(again.repository, "one", 3, megabytes=4)
    await until(lambda: again.traffic.told[2:] == [("split", 2, None), ("split", None, None)])
    assert await again.ask() == 3


async def test_a_version_that_nobody_declared_is_for_triton_to_answer(started):
    fleet = await started()
    with pytest.raises(InferenceRefused, match="version 7 is not found"):
        await fleet.ask("7")
