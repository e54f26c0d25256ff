"""In which order files change, and what Envoy is asked to prove."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tritonfleet.gateway.envoy import configuration
from tritonfleet.gateway.envoy.configuration import pauses
from tritonfleet.gateway.envoy.plan import Access, GatewayPlan, ModelPlan, ServerAddress, Split

NAMES = st.lists(st.sampled_from("abcdef"), unique=True)
PLAN = GatewayPlan(
    Path("/run/x"),
    "127.0.0.1",
    8000,
    8001,
    (ServerAddress("gpu0", "127.0.0.1:1", "127.0.0.1:2"),),
    (ModelPlan("bert"), ModelPlan("vit")),
)


def watched(resources: list[dict[str, object]]) -> bytes:
    return configuration._versioned({"version_info": "", "resources": resources})


def clusters(names: list[str], wait: int = 0) -> bytes:
    return watched([{"connect_timeout": f"{wait}s", "name": name} for name in names])


def names(content: bytes) -> list[str]:
    return [each["name"] for each in json.loads(content)["resources"]]


def files(cds: bytes, rds: str) -> dict[str, bytes]:
    return {
        "secret.json": rds.encode(),
        "cds.json": cds,
        "rds.json": watched([{"name": rds}]),
        "rds_inner.json": watched([{"name": "inner"}]),
        "lds.json": watched([{"name": rds}]),
        "bootstrap.json": b"{}",
    }


@given(NAMES, NAMES, st.integers(0, 1))
def test_no_route_is_ever_without_its_cluster(before, after, wait):
    old, new = files(clusters(before), "old"), files(clusters(after, wait), "new")
    present = dict(old)
    for step in configuration._steps(new, old):
        present.update(step)
        wanted = before if present["rds.json"] == old["rds.json"] else after
        assert set(wanted) <= set(names(present["cds.json"]))
    assert present == new


def test_what_is_new_in_a_first_start_is_everything_at_once_in_order():
    new = files(clusters(["a"]), "new")
    steps = configuration._steps(new, dict.fromkeys(new))
    assert [sorted(step) for step in steps] == [
        ["bootstrap.json", "secret.json"],
        ["cds.json"],
        ["rds.json", "rds_inner.json"],
        ["lds.json"],
    ]


def test_what_stays_is_not_touched():
    new = files(clusters(["a"]), "new")
    assert configuration._steps(new, new) == []


@given(NAMES, NAMES)
def test_the_version_tells_contents_apart(one, other):
    versions = [configuration._version(clusters(each)) for each in (one, other)]
    assert (versions[0] == versions[1]) == (one == other)
    assert json.loads(clusters(one))["version_info"] == versions[0]


def test_one_model_of_each_kind_is_proved_and_nothing_else_is_left_out():
    pinned = ModelPlan("vit", split=Split(stable=1))
    models = (ModelPlan("a"), ModelPlan("longest"), pinned, ModelPlan("bert"))
    plan = replace(PLAN, models=models, access=Access(tenants=("team-a",)))
    proved = configuration._to_prove(plan)
    assert set(proved.models) == {ModelPlan("longest"), pinned}
    assert replace(proved, models=models) == plan


def test_looks_become_rarer_but_never_cease():
    found = [pause for pause, _ in zip(pauses(0.001, 0.05), range(30), strict=False)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0.001, 0.05)
