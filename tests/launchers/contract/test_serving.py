"""However a tritonserver was started, its models load, answer, tell of themselves and leave."""

from __future__ import annotations

import asyncio
import json

import psutil
import pytest
from tritonclient.utils import InferenceServerException

from fleet_perf.inputs import make_inputs
from tests.launchers.contract.models import (
    DOUBLED,
    X,
    publish_broken,
    publish_gated,
    publish_weighty,
)
from tests.launchers.contract.test_starting import page
from tests.launchers.onnx_models import publish_doubler
from tests.launchers.processes import eventually
from tests.test_demo import as_json
from tritonfleet.server.memory import model_memory_bytes, model_processes, server_memory_bytes

pytestmark = pytest.mark.triton
MIB = 2**20


async def test_a_model_is_loaded_answers_and_is_unloaded(ground, connect):
    publish_doubler(ground.repository)
    client = connect(await ground.start())
    await client.load("double")
    assert await client.state("double") == "READY"
    assert (await client.ask("double", X))["y"].tolist() == DOUBLED
    await client.unload("double")
    # Unload answers before it is done, and nothing tells when.
    while await client.state("double") != "UNAVAILABLE":  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    with pytest.raises(InferenceServerException, match="no available versions"):
        await client.ask("double", X)


async def test_a_new_version_replaces_the_old_without_a_restart(ground, connect):
    publish_doubler(ground.repository)
    client = connect(await ground.start())
    await client.load("double")
    model = ground.repository / "double"
    (model / "2").mkdir()
    (model / "2" / "model.onnx").write_bytes((model / "1" / "model.onnx").read_bytes())
    await client.load("double")
    answer = await client.ask("double", X, model_version="2")
    assert answer["y"].tolist() == DOUBLED


async def test_a_broken_model_is_told_and_the_others_serve(ground, connect):
    publish_doubler(ground.repository)
    publish_broken(ground.repository)
    server = await ground.start()
    client = connect(server)
    await client.load("double")
    with pytest.raises(InferenceServerException, match="broken"):
        await client.load("broken")
    assert (await client.ask("double", X))["y"].tolist() == DOUBLED
    assert server.poll() is None


async def test_a_killed_model_process_takes_nobody_along(ground, connect):
    publish_doubler(ground.repository)
    publish_gated(ground.repository).touch()
    server = await ground.start()
    client = connect(server)
    for model in ("double", "gated"):
        await client.load(model)
    assert (await client.ask("gated", X))["y"].tolist() == DOUBLED
    (process,) = model_processes(server.endpoint.pid, "gated")
    psutil.Process(process).kill()
    with pytest.raises(InferenceServerException, match="not healthy"):
        await client.ask("gated", X)
    assert (await client.ask("double", X))["y"].tolist() == DOUBLED
    assert server.poll() is None


async def test_models_inside_tritonserver_tell_their_footprints(ground, connect):
    publish_weighty(ground.repository, "weighty", 40)
    server = await ground.start()
    client = connect(server)
    await client.load("weighty")
    assert await eventually(lambda: (server.events.bytes_of("weighty") or 0) > 40 * MIB)
    assert server_memory_bytes(server.endpoint.pid) > 40 * MIB
    await client.unload("weighty")
    assert await eventually(lambda: server.events.bytes_of("weighty") is None)


async def test_models_in_processes_of_their_own_are_measured_with_their_shared_memory(
    ground, connect
):
    publish_gated(ground.repository).touch()
    server = await ground.start()
    client = connect(server)
    await client.load("gated")
    await client.ask("gated", X)
    own = sum(
        psutil.Process(process).memory_full_info().uss
        for process in model_processes(server.endpoint.pid, "gated")
    )
    assert own > MIB
    # The region through which tritonserver hands it tensors is a mebibyte at least.
    assert model_memory_bytes(server.endpoint.pid, "gated") > own + MIB // 2


@pytest.mark.build
@pytest.mark.timeout(900)
async def test_every_model_of_the_demo_fleet_answers(ground, connect, built):
    ground.repository = built[0]
    server = await ground.start()
    client = connect(server)
    for model in json.loads((built[0] / "manifest.json").read_text())["models"]:
        await client.load(model)
        status, config = await page(server.endpoint.http, f"/v2/models/{model}/config")
        assert status == 200, model
        inputs = [as_json(tensor) for tensor in make_inputs(json.loads(config))]
        path = f"/v2/models/{model}/infer"
        status, answer = await page(server.endpoint.http, path, "POST", json={"inputs": inputs})
        assert (status, "error" in json.loads(answer)) == (200, False), answer[:500]
