"""The file of residency, by value."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tritonfleet.gateway.envoy.plan import GatewayPlan, ModelPlan, Residency, ServerAddress
from tritonfleet.gateway.envoy.residency import layer_of, residency_file

SERVERS = (ServerAddress("gpu0", "h:1", "h:2"), ServerAddress("gpu1", "h:3", "h:4"))
PLAN = GatewayPlan(Path("/run"), "::1", 1, 2, SERVERS, (ModelPlan("bert"), ModelPlan("vit")))


def test_resident_models_are_named_with_their_server_and_no_others():
    assert layer_of(PLAN, Residency(7, on={"bert": "gpu1"})) == {
        "generation": 7,
        "resident|gpu1|bert": 100,
    }


def test_a_server_that_no_route_leads_to_opens_none():
    assert layer_of(PLAN, Residency(7, on={"bert": "gone"})) == {"generation": 7}


def test_a_canary_is_open_only_where_its_model_is_resident():
    shares = {"bert": 12.5, "vit": 50}
    layer = layer_of(PLAN, Residency(1, on={"bert": "gpu0"}, canary_percent=shares))
    assert layer["canary|gpu0|bert"] == {"numerator": 1250, "denominator": "TEN_THOUSAND"}
    assert not any("vit" in key for key in layer)


@given(st.floats(0, 100))
def test_no_share_exceeds_the_whole(percent):
    residency = Residency(1, {"bert": "gpu0"}, {"bert": percent}, {"bert": percent})
    layer = layer_of(PLAN, residency)
    assert 0 <= layer["canary|gpu0|bert"]["numerator"] <= 10_000
    assert 0 <= layer["mirror|bert"]["numerator"] <= 1_000_000


def test_the_file_says_which_generation_it_is():
    file = residency_file(PLAN, Residency(12))
    assert file["version_info"] == "12"
    assert [resource["name"] for resource in file["resources"]] == ["residency"]
