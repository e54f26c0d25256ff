from __future__ import annotations

import pytest

from fleet_perf.bare import BareStart
from fleet_perf.cold import cold_pairs, first_request
from fleet_perf.scenarios import ColdScenario
from tests.fleet_perf.builders import config
from tests.fleet_perf.imitation import Imitation, connected, imitation
from tritonfleet.errors import Unstable
from tritonfleet.talk import Refused


class BareImitation:
    """Counts its starts; each takes a second longer than the one before."""

    def __init__(self) -> None:
        self.started: list[str] = []

    async def start(self, model, tensors):
        self.started.append(model)
        return BareStart(load_s=float(len(self.started)), infer_s=0.5)


async def pairs(served: Imitation, model: str = "m", samples: int = 2):
    bare = BareImitation()
    async with connected(served) as fleet:
        found = await cold_pairs(fleet, bare, model, [], samples, lambda _: None)
    return found, bare


async def test_the_first_pair_does_not_count():
    found, bare = await pairs(imitation("m"))
    assert found.bare_s == (2.5, 3.5)
    assert len(found.gateway_s) == 2
    assert bare.started == ["m", "m", "m"]


async def test_the_model_leaves_before_every_request():
    served = imitation("m", resident={"m"})
    await pairs(served)
    assert served.calls == ["unload m"] * 3
    assert served.counts == {"m": 3}


async def test_an_ensemble_leaves_before_the_models_it_calls():
    steps = {"step": [{"model_name": "part"}]}
    served = Imitation(
        {"whole": config(name="whole", ensemble_scheduling=steps), "part": config(name="part")}
    )
    await pairs(served, "whole", samples=1)
    assert served.calls[:2] == ["unload whole", "unload part"]


async def test_pins_are_lifted_for_the_time_and_come_back():
    served = imitation("m", pinned={"m"})
    await pairs(served, samples=1)
    assert served.calls[0] == "unpin m"
    assert served.pinned == {"m"}


async def test_pins_come_back_after_a_failure_too():
    served = imitation("m", pinned={"m"}, failing={"m"})
    with pytest.raises(Refused, match="no room"):
        await pairs(served)
    assert served.pinned == {"m"}


async def test_a_model_that_was_loaded_behind_our_back_makes_no_cold_start():
    served = imitation("m", resident={"m"}, forgets_unloads=True)
    with pytest.raises(Unstable, match="somebody else"):
        await pairs(served)


async def test_the_request_follows_the_shapes_of_the_scenario():
    served = imitation("m")
    served.configs["m"]["input"][0]["dims"] = [-1]
    async with connected(served) as fleet:
        scenario = ColdScenario(model="m", state="cold", shapes={"x": (5,)})
        (made,) = await first_request(fleet, scenario)
    assert made.shape == (1, 5)
