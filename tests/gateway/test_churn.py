"""NVIDIA's clients ask flat out for three times as many models as fit: nobody sees an error."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy
import pytest
import tritonclient.grpc.aio as tritongrpc
import tritonclient.http.aio as tritonhttp

from tests.gateway.rough import declared, write_python_adder
from tests.serving import serving
from tests.tiny import adder_fleet, write_ensemble

pytestmark = [pytest.mark.triton, pytest.mark.envoy]

LASTS_S = 15.0
CAPACITY = "160MiB"
SIZE = "40MiB"
"""Four fit."""
ADDERS = {f"onnx{number}": number + 1.0 for number in range(8)}
SLOW = {"python0": 20.0, "python1": 30.0}
"""In processes of their own, and slow to leave."""
ENSEMBLES = {
    "both": ("onnx0", "onnx1"),
    "shared": ("onnx1", "onnx2"),
}
ENSEMBLE = """\
  {name}:
    source: {{kind: ensemble, steps: [{{model: {0}}}, {{model: {1}}}], outputs: [y]}}
"""
AMOUNTS = {
    **ADDERS,
    **SLOW,
    **{name: sum(ADDERS[member] for member in members) for name, members in ENSEMBLES.items()},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Twelve models of which four fit; the brain has a process of its own, as it does for users."""
    path = tmp_path_factory.mktemp("fleet")
    extra = "".join(declared(name, SIZE) for name in SLOW) + "".join(
        ENSEMBLE.format(*members, name=name) for name, members in ENSEMBLES.items()
    )
    spec = adder_fleet(path, dict.fromkeys(ADDERS, SIZE), capacity=CAPACITY, extra=extra)
    for name, amount in SLOW.items():
        write_python_adder(path / "repository", name, amount=amount, leaves_in_s=0.5)
    for name, members in ENSEMBLES.items():
        write_ensemble(path / "repository", name, *members)
    with serving(spec, isolated=True) as fleet:
        yield fleet


@dataclass
class Churn:
    """What clients and an onlooker have seen."""

    answered: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    looks: int = 0
    over: list[dict] = field(default_factory=list)
    evicted: set[str] = field(default_factory=set)
    left: int = 0


def tensors(kind, batch):
    x = numpy.random.default_rng(batch).random((batch, 4), numpy.float32)
    given = kind.InferInput("x", x.shape, "FP32")
    given.set_data_from_numpy(x)
    return x, given


async def ask(churn, kind, client, seed, until):
    """Asks for one model after the other, some more often than others."""
    chance = random.Random(seed)
    names, weights = list(AMOUNTS), [1 / (rank + 1) for rank in range(len(AMOUNTS))]
    chance.shuffle(names)
    for batch in itertools.cycle(range(1, 9)):
        if time.monotonic() > until:
            return
        (name,) = chance.choices(names, weights)
        x, given = tensors(kind, batch)
        try:
            answer = await client.infer(name, [given])
        except Exception as error:
            churn.failures.append(f"{name}: {error!r}")
        else:
            assert numpy.allclose(answer.as_numpy("y"), x + AMOUNTS[name])
            churn.answered[name] += 1


async def watch(served, churn, until):
    """Looks at the memory of the server, and at who left."""
    before: set[str] = set()
    while time.monotonic() < until:
        status = await asyncio.to_thread(served.status)
        for server in status["servers"]:
            churn.looks += 1
            if server["occupied_bytes"] > server["capacity_bytes"]:
                churn.over.append(server)
        ready = {model["name"] for model in status["models"] if model["state"] == "READY"}
        churn.evicted |= before - ready
        churn.left += len(before - ready)
        before = ready
        await asyncio.sleep(0.02)


async def churned(served, clients, lasts_s):
    """So many clients of each kind for so long."""
    churn, until = Churn(), time.monotonic() + lasts_s
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            tritonhttp.InferenceServerClient(served.address, conn_timeout=120)
        )
        grpc = await stack.enter_async_context(
            tritongrpc.InferenceServerClient(served.grpc_address)
        )
        kinds = [(tritonhttp, http), (tritongrpc, grpc)] * clients
        tasks = [ask(churn, *kind, seed, until) for seed, kind in enumerate(kinds)]
        await asyncio.gather(watch(served, churn, until), *tasks)
    return churn


async def test_flat_out_over_three_times_as_many_models_as_fit_nobody_sees_an_error(served):
    churn = await churned(served, clients=6, lasts_s=LASTS_S)
    assert not churn.failures
    assert churn.looks
    assert not churn.over
    # All kinds were there, and have left: it was no quiet afternoon.
    assert set(churn.answered) == set(AMOUNTS)
    assert churn.evicted & set(ADDERS)
    assert churn.evicted & set(SLOW)


async def test_after_it_nothing_is_held_and_every_model_answers(served):
    status = served.status()
    assert status["activator"]["held"] == status["activator"]["held_bytes"] == 0
    assert all(model["waiting"] == model["in_use"] == 0 for model in status["models"])
    for name, amount in AMOUNTS.items():
        code, answer, _ = served.add(name)
        assert (code, answer["outputs"][0]["data"][0]) == (200, 1 + amount)
