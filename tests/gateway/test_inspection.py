"""What the HTTP front tells of the fleet and its models, loaded or not."""

from __future__ import annotations

import pytest
from aiohttp import web

from tests.gateway.fleet import Fleet
from tests.gateway.listening import FakeTriton, front, fronted
from tritonfleet.errors import LoadFailed
from tritonfleet.gateway.desk import Rules
from tritonfleet.spec.traffic import TenantSpec

TENANTS = {"team": TenantSpec(models=("one",)), "ops": TenantSpec(manage=True)}
TEAM, OPS = {"x-tritonfleet-tenant": "team"}, {"x-tritonfleet-tenant": "ops"}
PAGES = ["", "/ready", "/config", "/stats"]


# -- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("version", ["", "/versions/2"])
async def test_of_a_model_in_memory_triton_tells_and_of_a_cold_one_the_repository(page, version):
    triton = FakeTriton()
    async with fronted(triton) as gateway:
        path = f"/v2/models/one{version}{page}"
        status, said, headers = await gateway.status("GET", path)
        assert (status, headers["tritonfleet-residency"]) == (200, "cold")
        assert page == "/ready" or "one" in str(said)
        assert triton.seen == []
        gateway.fleet.ready.add("one")
        status, said, headers = await gateway.status("GET", path + "?strict=true")
        assert (status, headers["tritonfleet-residency"]) == (200, "warm")
        assert said == {"model_name": "as Triton says"}
        assert triton.paths == [path]
        assert gateway.fleet.asked == [], "nothing is loaded for a question"


@pytest.mark.parametrize("page", PAGES)
async def test_a_model_that_leaves_in_the_moment_it_is_asked_about_is_a_cold_one(page):
    triton = FakeTriton([(404, "Request for unknown model: 'one' has no available versions")])
    async with fronted(triton) as gateway:
        gateway.fleet.ready.add("one")
        status, _, headers = await gateway.status("GET", f"/v2/models/one{page}")
        assert (status, headers["tritonfleet-residency"]) == (200, "cold")
        assert len(triton.seen) == 1


@pytest.mark.parametrize("page", PAGES)
async def test_a_version_that_nobody_published_is_404(page):
    async with fronted(FakeTriton()) as gateway:
        status, said, _ = await gateway.status("GET", f"/v2/models/one/versions/9{page}")
        assert status == 404
        assert "version 9 is not found. Published versions: 1, 2." in said["error"]


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {}, 200),
        ("?strict=false", {}, 200),
        ("?strict=true", {}, 400),
        ("", {"tritonfleet-strict": "True"}, 400),
        ("?strict=1", {}, 400),
    ],
)
async def test_a_cold_model_is_ready_unless_one_is_strict(query, headers, status):
    async with fronted(FakeTriton()) as gateway:
        path = "/v2/models/one/ready" + query
        got, _, told = await gateway.status("GET", path, headers=headers)
        assert (got, told["tritonfleet-residency"]) == (status, "cold")


async def test_a_model_that_does_not_load_is_not_ready_and_says_why():
    fleet = Fleet(failures={"one": LoadFailed("one", "corrupt file", 5.0)})
    async with fronted(FakeTriton(), fleet=fleet) as gateway:
        status, said, _ = await gateway.status("GET", "/v2/models/one/ready")
        assert (status, "corrupt file" in said["error"]) == (400, True)


async def test_of_a_model_of_somebody_else_nothing_is_told():
    async with fronted(FakeTriton(), tenants=TENANTS) as gateway:
        for page in PAGES:
            status, _, _ = await gateway.status("GET", f"/v2/models/two{page}", headers=TEAM)
            assert status == 403


# -- the server ----------------------------------------------------------------------------------


async def test_the_server_says_what_it_can():
    async with fronted(FakeTriton()) as gateway:
        _, said, _ = await gateway.status("GET", "/v2")
        assert (said["name"], said["version"]) == ("tritonfleet", "1.2.3")
        assert {"binary_tensor_data", "trace", "system_shared_memory"} <= set(said["extensions"])


async def test_where_tenants_are_declared_nobody_is_promised_shared_memory():
    async with fronted(FakeTriton(), tenants=TENANTS) as gateway:
        _, said, _ = await gateway.status("GET", "/v2")
        assert not [name for name in said["extensions"] if "shared_memory" in name]


async def test_the_gateway_is_live_without_a_server_but_not_ready():
    async with front(Fleet(), Rules(models=("one",))) as gateway:
        assert (await gateway.status("GET", "/v2/health/live"))[0] == 200
        assert (await gateway.status("GET", "/v2/health/ready"))[0] == 503
    async with fronted(FakeTriton()) as gateway:
        assert (await gateway.status("GET", "/v2/health/ready"))[0] == 200


async def test_all_statistics_are_those_of_the_callers_models():
    async def statistics(_):
        return web.json_response({"model_stats": [{"name": "one"}, {"name": "two"}]})

    async with fronted(statistics, tenants=TENANTS) as gateway:
        for headers, names in ((TEAM, ["one"]), (OPS, ["one", "two"]), ({}, [])):
            _, said, _ = await gateway.status("GET", "/v2/models/stats", headers=headers)
            assert [entry["name"] for entry in said["model_stats"]] == names


# -- the repository extension --------------------------------------------------------------------


async def test_the_index_shows_the_callers_models_with_their_states():
    fleet = Fleet(ready={"one"}, failures={"two": LoadFailed("two", "corrupt file", 5.0)})
    async with fronted(FakeTriton(), fleet=fleet, tenants=TENANTS) as gateway:
        path = "/v2/repository/index"
        _, said, _ = await gateway.status("POST", path, headers=OPS)
        assert said == [
            {"name": "one", "version": "2", "state": "READY", "reason": ""},
            {"name": "two", "version": "2", "state": "UNAVAILABLE", "reason": "corrupt file"},
        ]
        for headers, body in ((TEAM, {}), (OPS, {"ready": True})):
            _, said, _ = await gateway.status("POST", path, headers=headers, json=body)
            assert [entry["name"] for entry in said] == ["one"]


@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_loads_and_unloads_are_for_who_manages(verb):
    async with fronted(FakeTriton(), tenants=TENANTS) as gateway:
        path = f"/v2/repository/models/one/{verb}"
        for headers, status in ((TEAM, 403), ({}, 403), (OPS, 200)):
            assert (await gateway.status("POST", path, headers=headers))[0] == status
        assert gateway.fleet.did == [(verb, "one")]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "must be a JSON object"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff", "is not JSON"),
        (b" " * (2**20 + 1), "is larger than"),
        (b'{"parameters": {"config": "{}"}}', "parameters are not taken: config"),
        (b'{"parameters": [1]}', "parameters are not taken"),
    ],
)
async def test_a_load_that_makes_no_sense_is_400_and_loads_nothing(body, message):
    async with fronted(FakeTriton()) as gateway:
        path = "/v2/repository/models/one/load"
        status, said, _ = await gateway.status("POST", path, data=body)
        assert (status, message in said["error"]) == (400, True)
        assert gateway.fleet.did == []
