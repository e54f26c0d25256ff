from __future__ import annotations

import pytest

from fleet_perf.fleet import Counters, RunningFleet, check_counters, failure, reachable
from fleet_perf.inputs import make_inputs
from tests.fleet_perf.builders import config, refused, tensor
from tests.fleet_perf.imitation import Imitation, connected, imitation
from tritonfleet.errors import Unstable
from tritonfleet.talk import FleetUnreachable, Refused

NOBODY = "http://127.0.0.1:1"
TENSORS = make_inputs(config(tensor("x", "FP32", [2])))


async def test_the_first_answer_is_cold_and_the_next_is_warm():
    async with connected(imitation("m")) as fleet:
        first = await fleet.ask(fleet.gateway, "m", TENSORS)
        second = await fleet.ask(fleet.gateway, "m", TENSORS)
    assert (first.status, first.cold, first.wait_ms) == (200, True, 1.5)
    assert (second.cold, second.wait_ms, second.error) == (False, 0.0, None)


async def test_an_error_answer_is_kept_with_its_text():
    async with connected(imitation("m", failing={"m"})) as fleet:
        answer = await fleet.ask(fleet.gateway, "m", TENSORS)
    assert (answer.status, answer.error) == (503, "no room")


async def test_nobody_at_the_address_is_an_answer_without_a_status():
    async with RunningFleet(NOBODY, NOBODY) as fleet:
        answer = await fleet.ask(NOBODY, "m", TENSORS)
        assert answer.status == 0
        assert isinstance(failure(NOBODY, "m", answer), FleetUnreachable)


async def test_no_fleet_is_told_as_such():
    assert not await reachable(NOBODY)
    async with RunningFleet(NOBODY, NOBODY) as fleet:
        with pytest.raises(FleetUnreachable):
            await fleet.status()


async def test_a_fleet_is_reachable():
    async with connected(imitation("m")) as fleet:
        assert await reachable(fleet.control)


async def test_what_the_fleet_declines_carries_its_words():
    async with connected(imitation("m", pinned={"m"})) as fleet:
        with pytest.raises(Refused, match="m is pinned"):
            await fleet.act("unload", "m")


async def test_a_model_stays_while_it_is_measured_and_is_free_afterwards():
    served = imitation("m")
    async with connected(served) as fleet:
        async with fleet.resident("m") as triton:
            assert triton == served.address
            assert served.pinned == {"m"}
    assert served.pinned == set()


async def test_a_model_that_was_pinned_stays_pinned():
    served = imitation("m", pinned={"m"})
    async with connected(served) as fleet:
        async with fleet.resident("m"):
            pass
    assert served.pinned == {"m"}


async def test_a_model_on_no_server_cannot_be_measured():
    async with connected(imitation("m")) as fleet:
        with pytest.raises(Unstable, match="on no server"):
            await fleet.triton_of("m")


async def test_an_ensemble_comes_before_what_it_calls():
    steps = {"step": [{"model_name": "tokenizer"}, {"model_name": "encoder"}]}
    served = Imitation(
        {
            "text": config(name="text", ensemble_scheduling=steps),
            "tokenizer": config(name="tokenizer"),
            "encoder": config(name="encoder"),
        }
    )
    async with connected(served) as fleet:
        assert await fleet.closure("text") == ("text", "tokenizer", "encoder")


async def test_a_failed_answer_names_model_place_and_reason():
    assert str(failure("http://g", "m", refused())) == "m at http://g answered 503: no room"


def test_counters_that_cover_the_requests_are_fine():
    check_counters("m", Counters(5, 1, 20), Counters(15, 1, 60), requests=10, rows=4)


@pytest.mark.parametrize(
    ("after", "cause"),
    [
        (Counters(14, 1, 60), "10 requests of 4 rows"),
        (Counters(15, 1, 59), "10 requests of 4 rows"),
        (Counters(15, 2, 60), "1 failed"),
        (Counters(4, 0, 16), "loaded anew"),
    ],
)
def test_counters_that_contradict_the_client_are_unstable(after, cause):
    with pytest.raises(Unstable, match=cause):
        check_counters("m", Counters(5, 1, 20), after, requests=10, rows=4)


async def test_answers_are_not_asked_for_in_compressed_form():
    served = imitation("m")
    async with connected(served) as fleet:
        await fleet.ask(fleet.gateway, "m", make_inputs(served.configs["m"]))
    assert served.encodings == {"identity"}
