"""The direct way, opened and closed under a real Envoy while requests pass."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace

import aiohttp
import grpc
import pytest

from tests.gateway.envoy.backends import INFER, Backend, activator, infer_request, triton
from tests.gateway.envoy.running import plan as planned
from tests.gateway.envoy.running import short_folder
from tritonfleet.errors import ConfigRejected
from tritonfleet.gateway.envoy import dataplane, files
from tritonfleet.gateway.envoy.dataplane import DataPlane
from tritonfleet.gateway.envoy.plan import GatewayPlan, ModelPlan, ServerAddress
from tritonfleet.gateway.envoy.process import EnvoyOptions, EnvoyProcess
from tritonfleet.gateway.envoy.program import find_program
from tritonfleet.spec.traffic import LimitsSpec

MODELS = ("bert", "vit")
Ask = Callable[["Gateway"], Coroutine[None, None, "str | None"]]
NOBODY = ServerAddress("gpu0", "127.0.0.1:1", "127.0.0.1:1")


@pytest.fixture
def folder():
    with short_folder() as folder:
        yield folder


@pytest.fixture
async def plane(folder):
    plane = DataPlane(folder, None)
    yield plane
    await plane.close()


async def turn() -> None:
    """Lets what is due at once happen."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def written(folder) -> dict[str, object]:
    layer = json.loads((folder / "residency.json").read_bytes())["resources"][0]["layer"]
    return {key: value for key, value in layer.items() if key != "generation"}


# -- without an Envoy --------------------------------------------------------------------------


async def test_what_is_published_is_there_for_an_envoy_that_comes_later(plane, folder):
    await plane.apply(planned(folder, *MODELS))
    plane.publish("bert", "gpu0")
    await turn()
    assert written(folder) == {"resident|gpu0|bert": 100}


async def test_an_envoy_may_be_started_as_soon_as_a_plan_is_applied(plane, folder):
    await plane.apply(planned(folder, *MODELS))
    assert {"bootstrap.json", "cds.json", "residency.json"} <= {
        file.name for file in folder.iterdir()
    }


async def test_many_changes_at_once_are_one_write(plane, folder):
    await plane.apply(planned(folder, *(f"m{number}" for number in range(50))))
    before = plane.residency.generation
    for number in range(50):
        plane.publish(f"m{number}", "gpu0")
    await turn()
    assert plane.residency.generation == before + 1
    assert len(written(folder)) == 50


async def test_what_is_published_already_is_not_written_again(plane, folder):
    await plane.apply(planned(folder, *MODELS))
    plane.publish("bert", "gpu0")
    await turn()
    before = plane.residency.generation
    plane.publish("bert", "gpu0")
    await turn()
    assert plane.residency.generation == before


async def test_without_an_envoy_nothing_is_waited_for(plane, folder):
    await plane.apply(planned(folder, *MODELS))
    plane.publish("bert", "gpu0")
    await plane.withdraw("bert")
    await plane.withdraw("vit")
    assert (written(folder), await plane.in_flight()) == ({}, {})


async def test_a_successor_begins_with_what_was_published_and_counts_on(plane, folder):
    await plane.apply(planned(folder, *MODELS))
    for model in MODELS:
        plane.publish(model, "gpu0")
    await plane.close()
    successor = DataPlane(folder, None)
    assert successor.residency == plane.residency
    await successor.apply(plane.plan)
    assert len(written(folder)) == 2
    successor.publish("vit", "gpu0")
    successor.settle()
    await turn()
    assert written(folder) == {"resident|gpu0|vit": 100}
    assert successor.residency.generation > plane.residency.generation


async def test_a_record_that_cannot_be_read_is_no_obstacle(folder):
    (folder / "residency.record.json").write_text('{"generation": 3, "elsewhere": {}}')
    assert DataPlane(folder, None).residency.on == {}


async def test_a_model_that_leaves_the_plan_leaves_residency(plane, folder):
    plan = planned(folder, *MODELS)
    await plane.apply(plan)
    plane.publish("vit", "gpu0")
    await plane.apply(replace(plan, models=plan.models[:1]))
    assert written(folder) == {}


async def test_a_full_disk_is_survived(plane, folder, monkeypatch):
    await plane.apply(planned(folder, *MODELS))
    full = iter([OSError("no space left on device")])

    def write(file, content, really=files.write):
        for error in full:
            raise error
        return really(file, content)

    monkeypatch.setattr(files, "write", write)
    monkeypatch.setattr(dataplane, "_RETRY_S", 0)
    plane.publish("bert", "gpu0")
    while not written(folder):
        await turn()
    assert written(folder) == {"resident|gpu0|bert": 100}


# -- with one ------------------------------------------------------------------------------------


@dataclass
class Gateway:
    """Envoy between clients, a Triton and an activator, all of the smallest kind."""

    plane: DataPlane
    triton: Backend
    activator: Backend
    options: EnvoyOptions
    envoy: EnvoyProcess
    answers: list[str] = field(default_factory=list)

    @property
    def plan(self) -> GatewayPlan:
        assert self.plane.plan
        return self.plane.plan

    async def ask(self, model: str = "bert") -> str:
        """Who has answered, or the status if it is not 200."""
        url = f"http://127.0.0.1:{self.plan.http_port}/v2/models/{model}/infer"
        async with aiohttp.ClientSession() as session:
            async with session.post(url, data=b"{}") as answer:
                return (await answer.json())["by"] if answer.status == 200 else str(answer.status)

    async def call(self, model: str = "bert") -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.plan.grpc_port}") as channel:
            await channel.unary_unary(INFER)(infer_request(model))

    async def open(self) -> None:
        """Returns once something is published."""
        while not any(key.startswith("resident") for key in await self.plane.admin.runtime()):
            pass

    async def place(self, ask: Ask) -> asyncio.Task[str | None]:
        """A request that is answered, or that has come to Triton."""
        before = self.triton.running
        asking = asyncio.create_task(ask(self))
        await until(lambda: asking.done() or self.triton.running > before)
        return asking

    async def reach(self, who: str, model: str = "bert") -> None:
        """Asks until it is that one who answers."""
        while await self.ask(model) != who:
            pass

    @contextlib.asynccontextmanager
    async def clients(self, count: int = 4) -> AsyncIterator[None]:
        """Who ask all the time."""

        async def keep_asking() -> None:
            while True:
                self.answers.append(await self.ask())

        tasks = [asyncio.create_task(keep_asking()) for _ in range(count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        failures = [each for each in outcomes if not isinstance(each, asyncio.CancelledError)]
        assert not failures


@contextlib.asynccontextmanager
async def serving(folder, tmp_path, *models: ModelPlan | str, checked: bool = True, **fields):
    program = await find_program()
    async with triton() as (backend, address):
        plan = planned(folder, *(models or MODELS), servers=(address,), **fields)
        async with activator(plan) as cold:
            log = tmp_path / "logs" / "envoy.log"
            plane = DataPlane(folder, program if checked else None, drain_timeout_s=30.0, log=log)
            await plane.apply(plan)
            options = EnvoyOptions(
                program, folder, tmp_path, plan.host, {"http": 0, "grpc": 0}, concurrency=2
            )
            gateway = Gateway(plane, backend, cold, options, await EnvoyProcess.start(options))
            try:
                yield gateway
            finally:
                await gateway.envoy.stop(0)
                await plane.close()


@pytest.fixture
async def gateway(folder, tmp_path):
    async with serving(folder, tmp_path) as gateway:
        yield gateway


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


@pytest.mark.envoy
async def test_requests_go_straight_while_a_model_is_published(gateway):
    assert await gateway.ask() == "activator"
    gateway.plane.publish("bert", "gpu0")
    await gateway.reach("gpu0")
    await gateway.plane.withdraw("bert")
    assert await gateway.ask() == "activator"
    assert await gateway.ask("vit") == "activator"


@pytest.mark.envoy
async def test_no_client_sees_a_model_come_and_go(gateway):
    async with gateway.clients():
        for _ in range(20):
            gateway.plane.publish("bert", "gpu0")
            await gateway.reach("gpu0")
            await gateway.plane.withdraw("bert")
            await gateway.reach("activator")
    assert set(gateway.answers) == {"gpu0", "activator"}


@pytest.mark.envoy
async def test_once_withdrawn_nothing_is_at_the_server_and_nothing_comes(gateway):
    async with gateway.clients():
        for _ in range(20):
            gateway.plane.publish("bert", "gpu0")
            await gateway.reach("gpu0")
            await gateway.plane.withdraw("bert")
            served = len(gateway.triton.requests)
            assert gateway.triton.running == 0
            await gateway.reach("activator")
            assert len(gateway.triton.requests) == served


@pytest.mark.envoy
@pytest.mark.parametrize("ask", [Gateway.ask, Gateway.call], ids=["http", "grpc"])
async def test_a_model_is_withdrawn_once_its_requests_are_answered_and_not_later(gateway, ask):
    gateway.triton.gate = asyncio.Event()
    for model in MODELS:
        gateway.plane.publish(model, "gpu0")
    asking = []
    while gateway.triton.running < 3:
        asking.append(await gateway.place(ask))
    assert await gateway.plane.in_flight() == {"bert": 3}
    await asyncio.wait_for(gateway.plane.withdraw("vit"), 10)  # which has none
    withdrawing = asyncio.create_task(gateway.plane.withdraw("bert"))
    while not (last := await gateway.place(Gateway.ask)).done():
        asking.append(last)
    assert last.result() == "activator"
    assert not withdrawing.done()
    gateway.triton.gate.set()
    await asyncio.gather(withdrawing, *asking)
    assert await gateway.plane.in_flight() == {}


@pytest.mark.envoy
async def test_withdrawing_gives_up_in_time(folder, tmp_path):
    async with serving(folder, tmp_path) as gateway:
        gateway.plane._drain_timeout_s = 0.2
        gateway.triton.gate = asyncio.Event()
        gateway.plane.publish("bert", "gpu0")
        await gateway.open()
        asking = asyncio.create_task(gateway.ask())
        await until(lambda: gateway.triton.running == 1)
        await gateway.plane.withdraw("bert")
        assert gateway.triton.running == 1
        gateway.triton.gate.set()
        assert await asking == "gpu0"


@pytest.mark.envoy
async def test_what_is_at_the_activator_is_not_under_way(gateway):
    gateway.activator.gate = asyncio.Event()
    asking = asyncio.create_task(gateway.ask())
    await until(lambda: gateway.activator.running == 1)
    gateway.plane.publish("bert", "gpu0")
    assert await gateway.plane.in_flight() == {}
    gateway.activator.gate.set()
    assert await asking == "activator"


@pytest.mark.envoy
async def test_a_plan_that_envoy_rejects_disturbs_nobody(gateway, folder):
    gateway.plane.publish("bert", "gpu0")
    await gateway.reach("gpu0")
    before = {file.name: file.read_bytes() for file in folder.glob("*.json")}
    wrong = replace(gateway.plan, servers=(ServerAddress("gpu0", "nowhere:1", "nowhere:1"),))
    async with gateway.clients():
        with pytest.raises(ConfigRejected, match="nowhere"):
            await gateway.plane.apply(wrong)
        await gateway.ask()
    assert set(gateway.answers) == {"gpu0"}
    assert {file.name: file.read_bytes() for file in folder.glob("*.json")} == before


@pytest.mark.envoy
async def test_what_only_the_running_envoy_rejects_is_taken_back(folder, tmp_path):
    async with serving(folder, tmp_path, checked=False) as gateway:
        gateway.plane.publish("bert", "gpu0")
        await gateway.reach("gpu0")
        before = await gateway.plane.admin.subscriptions()
        wrong = replace(gateway.plan, servers=(ServerAddress("gpu0", "nowhere:1", "nowhere:1"),))
        async with gateway.clients():
            with pytest.raises(ConfigRejected, match="nowhere"):
                await gateway.plane.apply(wrong)
            await gateway.plane.apply(gateway.plan)
        assert set(gateway.answers) == {"gpu0"}
        after = await gateway.plane.admin.subscriptions()
        assert {key: value.version for key, value in after.items() if key != "runtime"} == {
            key: value.version for key, value in before.items() if key != "runtime"
        }


@pytest.mark.envoy
async def test_a_plan_changes_under_requests(gateway):
    gateway.plane.publish("bert", "gpu0")
    await gateway.reach("gpu0")
    limited = ModelPlan("bert", limits=LimitsSpec(max_concurrency=8, timeout_s=30))
    async with gateway.clients():
        for models in [(limited, ModelPlan("new")), (ModelPlan("bert"),), (limited,)]:
            await gateway.plane.apply(replace(gateway.plan, models=models))
    assert set(gateway.answers) == {"gpu0"}


@pytest.mark.envoy
async def test_the_same_plan_again_changes_nothing(gateway):
    assert not (await gateway.plane.apply(gateway.plan)).changed


@pytest.mark.envoy
async def test_a_server_at_another_address_is_found_there(gateway):
    async with triton() as (other, address):
        other.name = "moved"
        await gateway.plane.set_servers((address,))
        gateway.plane.publish("bert", "gpu0")
        await gateway.reach("moved")
    assert gateway.triton.requests == []


@pytest.mark.envoy
async def test_a_share_of_unversioned_requests_goes_to_the_canary(gateway):
    await gateway.plane.split("bert", 1, 2)
    gateway.plane.publish("bert", "gpu0")
    await gateway.plane.share("bert", 100.0)
    await gateway.reach("gpu0")
    assert gateway.triton.requests[-1].path == "/v2/models/bert/versions/2/infer"
    await gateway.plane.share("bert", 0.0)
    await gateway.ask()
    assert gateway.triton.requests[-1].path == "/v2/models/bert/versions/1/infer"
    await gateway.plane.split("bert", None, None)
    await gateway.ask()
    assert gateway.triton.requests[-1].path == "/v2/models/bert/infer"


@pytest.mark.envoy
async def test_copies_are_made_while_they_are_wanted(folder, tmp_path):
    async with serving(folder, tmp_path, ModelPlan("bert", mirrored=True)) as gateway:
        gateway.plane.publish("bert", "gpu0")
        await gateway.reach("gpu0")
        before = len(gateway.activator.requests)
        await gateway.plane.mirror("bert", 100.0)
        await gateway.ask()
        await until(lambda: len(gateway.activator.requests) > before)
        await gateway.plane.mirror("bert", 0.0)


@pytest.mark.envoy
async def test_a_killed_envoy_holds_up_nothing_and_its_successor_finds_all(gateway):
    gateway.plane.publish("vit", "gpu0")
    await gateway.reach("gpu0", "vit")
    os.kill(gateway.envoy.pid, signal.SIGKILL)
    await gateway.envoy.wait()
    gateway.plane.publish("bert", "gpu0")
    await gateway.plane.withdraw("vit")
    assert not (await gateway.plane.apply(gateway.plan)).changed
    gateway.envoy = await EnvoyProcess.start(gateway.options)
    assert [await gateway.ask(model) for model in MODELS] == ["gpu0", "activator"]
    await gateway.plane.withdraw("bert")
    assert await gateway.ask() == "activator"


@pytest.mark.envoy
async def test_an_envoy_killed_while_a_model_is_withdrawn_ends_the_wait(gateway):
    gateway.triton.gate = asyncio.Event()
    gateway.plane.publish("bert", "gpu0")
    await gateway.open()
    asking = asyncio.create_task(gateway.ask())
    await until(lambda: gateway.triton.running == 1)
    withdrawing = asyncio.create_task(gateway.plane.withdraw("bert"))
    os.kill(gateway.envoy.pid, signal.SIGKILL)
    await asyncio.wait_for(withdrawing, 10)
    with pytest.raises(aiohttp.ClientError):
        await asking


@pytest.mark.envoy
async def test_nothing_is_readable_for_others(gateway, folder):
    modes = {file.name: file.lstat().st_mode & 0o077 for file in folder.glob("*.json")}
    modes["admin.sock"] = (folder / "admin.sock").lstat().st_mode & 0o077
    assert set(modes.values()) == {0}
    assert folder.stat().st_mode & 0o777 == 0o700
