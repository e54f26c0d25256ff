from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from fleet_perf.peers import measure
from fleet_perf.peers.run import PeersOrder, compare
from fleet_perf.peers.systems import NATIVE, PYTHON, all_systems
from tests.fleet_perf.peers.imitation import EFFORT, JOB, Imitation


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    monkeypatch.setattr(measure, "SETTLE_S", 0.0)


def nothing(_: str) -> None:
    pass


def order(tmp_path, *systems) -> PeersOrder:
    return PeersOrder(systems, JOB, EFFORT, tmp_path / "cache")


async def test_every_system_is_measured_in_every_way(tmp_path):
    results = await compare(order(tmp_path, Imitation("a"), Imitation("b")), nothing, nothing)
    assert results.failed == []
    for found in results.systems.values():
        assert found.cold is not None
        assert found.cold.latency.count == EFFORT.cold_bursts * EFFORT.cold_per_burst
        assert found.trace is not None
        assert found.trace.requests == EFFORT.trace_requests
        assert set(found.warm) == {1, JOB.clients}
        assert found.memory is not None
        assert found.idle_cores is not None
        assert found.end_bytes
        assert found.packages == ("imitation==1",)


async def test_all_are_given_the_same_trace(tmp_path):
    one, other = Imitation("a"), Imitation("b")
    await compare(order(tmp_path, one, other), nothing, nothing)
    assert sorted(one.asked) == sorted(other.asked)


async def test_one_at_a_time_hits_as_often_as_the_simulation_says(tmp_path):
    system = Imitation()
    given = order(tmp_path, system)
    alone = replace(given, job=replace(JOB, clients=1))
    results = await compare(alone, nothing, nothing)
    trace = results.systems[system.name].trace
    assert trace is not None
    assert trace.hit_ratio == pytest.approx(results.lru_hit_ratio)


async def test_a_system_that_cannot_start_leaves_the_others_alone(tmp_path):
    warned = []
    broken = Imitation("broken", room=1)
    results = await compare(order(tmp_path, broken, Imitation("sound")), nothing, warned.append)
    assert results.systems["sound"].trace is not None
    assert results.systems["broken"].trace is None
    assert len(broken.starts) == 1
    assert [str(error) for error in results.failed] == [warned[-1]]
    assert "broken: it does not hold 2 models" in warned[-1]


async def test_a_system_that_fails_half_way_drops_out(tmp_path):
    tired = Imitation("tired", fails_from=13)
    results = await compare(order(tmp_path, tired, Imitation("sound")), nothing, nothing)
    assert len(results.failed) == 1
    assert len(tired.asked) == 13
    assert results.systems["sound"].warm


async def test_nothing_stays_but_the_cache(tmp_path):
    await compare(order(tmp_path, Imitation()), nothing, nothing)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.perf
@pytest.mark.triton
async def test_a_real_fleet_is_measured_from_start_to_end(tmp_path):
    # The peers are not installed for a test; bench-peers itself does that.
    native = importlib.util.find_spec("tritonfleet_onnxruntime") is not None
    name = NATIVE if native else PYTHON
    results = await compare(order(tmp_path, all_systems()[name]), nothing, nothing)
    assert [str(error) for error in results.failed] == []
    found = results.systems[name]
    assert found.memory is not None
    assert found.memory.footprint is not None
    assert found.cold is not None
    assert found.cold.latency.count == EFFORT.cold_bursts * EFFORT.cold_per_burst
    assert found.trace is not None
    assert found.trace.errors == ()
    assert 0 < found.trace.hit_ratio < 1
    assert (results.tiny_bytes is not None) == native
