from __future__ import annotations

from dataclasses import replace

import pytest

from fleet_perf.peers import measure
from fleet_perf.peers.measure import Subject, fill
from tests.fleet_perf.peers.imitation import JOB, Imitation, asking
from tritonfleet.errors import Unstable


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    monkeypatch.setattr(measure, "SETTLE_S", 0.0)


async def test_cold_bursts_go_on_where_the_last_one_ended(tmp_path):
    system = Imitation()
    async with asking(system, tmp_path) as client:
        subject = Subject(client, JOB)
        await subject.go_round()
        await subject.cold_burst(3)
        await subject.cold_burst(3)
    ring = [*JOB.names, *JOB.names]
    assert system.asked[len(JOB.names) :] == ring[:6]
    assert subject.cold().latency.count == 6


async def test_cold_starts_that_were_none_are_not_reported(tmp_path):
    async with asking(Imitation(room=JOB.models), tmp_path) as client:
        subject = Subject(client, JOB)
        await subject.go_round()
        with pytest.raises(Unstable, match="should not have been"):
            await subject.cold_burst(1)
    assert subject.cold_latency_s == []


async def test_a_model_that_was_kept_longer_is_passed_over(tmp_path):
    system = Imitation()
    async with asking(system, tmp_path) as client:
        subject = Subject(client, JOB)
        await client.must_answer([*JOB.names[1:], JOB.names[0]])
        await subject.cold_burst(2)
    assert system.asked[-3:] == list(JOB.names[:3])
    assert subject.cold().latency.count == 2


async def test_warm_bursts_ask_only_for_what_is_in_memory(tmp_path):
    system = Imitation()
    async with asking(system, tmp_path) as client:
        subject = Subject(client, JOB)
        await subject.go_round()
        await subject.warm_burst(6, 1)
        await subject.warm_burst(6, 2)
        await subject.warm_burst(6, 2)
    assert set(system.asked[len(JOB.names) :]) == set(JOB.names[-JOB.room :])
    warm = subject.warm()
    assert {clients: len(found.bursts) for clients, found in warm.items()} == {1: 1, 2: 2}
    assert warm[2].latency.count == 12


async def test_a_model_that_comes_and_goes_makes_no_warm_figure(tmp_path):
    async with asking(Imitation(room=1), tmp_path) as client:
        with pytest.raises(Unstable, match="should have been"):
            await Subject(client, JOB).warm_burst(4, 1)


async def test_errors_of_the_trace_are_counted_and_do_not_end_it(tmp_path):
    async with asking(Imitation(failing={"model-01"}), tmp_path) as client:
        subject = Subject(client, JOB)
        await subject.trace_slice(["model-00", "model-01"])
        await subject.trace_slice(["model-00"])
    trace = subject.trace()
    assert (trace.requests, trace.loads, len(trace.slices_s)) == (3, 1, 2)
    assert trace.errors == ('model-01: 500 {"detail": "no"}',)


async def test_loads_are_counted_where_triton_logs_them(tmp_path):
    log = tmp_path / "host.log"
    log.write_text("I1 \"successfully loaded 'model-00'\"\n")

    class Logging(Imitation):
        async def predict(self, request):
            with log.open("a") as file:
                file.write('I1 "loading: m:1"\nI1 "successfully loaded \'m\'"\n')
            return await super().predict(request)

    async with asking(Logging(room=9), tmp_path) as client:
        client.running = replace(client.running, log=log)
        subject = Subject(client, JOB)
        await subject.trace_slice(["a", "a", "b"])
    assert subject.trace().loads == 3


async def test_memory_is_measured_with_all_models_in_it(tmp_path):
    async with asking(Imitation(), tmp_path) as client:
        found = await fill(client, JOB.names[: JOB.room])
    assert found.resident == JOB.room
    assert found.bytes > 0
    async with asking(Imitation(room=1), tmp_path) as client:
        with pytest.raises(Unstable, match="does not hold 2 models"):
            await fill(client, JOB.names[: JOB.room])
