"""Trace, logging and shared memory over HTTP: who may, which servers hear of it, what is kept."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest

from tests.gateway.fleet import Fleet, endpoint
from tests.gateway.listening import FakeTriton, front, fronted, listening
from tritonfleet.gateway.desk import Rules
from tritonfleet.gateway.shared_memory import Region
from tritonfleet.spec.traffic import TenantSpec

TENANTS = {"team": TenantSpec(models=("one",)), "ops": TenantSpec(manage=True)}
OPS, TEAM = {"x-tritonfleet-tenant": "ops"}, {"x-tritonfleet-tenant": "team"}
SYSTEM = "/v2/systemsharedmemory/region/in"
REGISTRATION = {"key": "/in", "offset": 8, "byte_size": 64}


@contextlib.asynccontextmanager
async def two_servers(*, pids=(1, 2), **rules):
    """The activator in front of two FakeTritons."""
    tritons, fleet = [FakeTriton(), FakeTriton()], Fleet()
    async with contextlib.AsyncExitStack() as stack:
        for name, triton, pid in zip(("gpu0", "gpu1"), tritons, pids, strict=True):
            address = await stack.enter_async_context(listening(triton.answer))
            fleet.endpoints[name] = endpoint(address, pid=pid)
        made = front(fleet, Rules(models=("one",), **rules))
        yield await stack.enter_async_context(made), tritons


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v2/logging", "/v2/trace/setting"])
async def test_settings_are_read_from_one_server_and_changed_on_all(path):
    async with two_servers() as (gateway, tritons):
        assert (await gateway.status("GET", path))[0] == 200
        assert [len(triton.seen) for triton in tritons] == [1, 0]
        assert (await gateway.status("POST", path, data=b'{"log_info": false}'))[0] == 200
        for triton in tritons:
            seen = triton.seen[-1]
            assert (seen.path, seen.body) == (path, b'{"log_info": false}')
            assert seen.headers["admin"] == "secret"


async def test_a_server_that_refuses_a_change_is_heard():
    async with two_servers() as (gateway, tritons):
        tritons[1].answers.append((400, "no such setting"))
        status, said, _ = await gateway.status("POST", "/v2/logging", data=b"{}")
        assert (status, said) == (400, {"error": "no such setting"})


async def test_only_who_manages_may_change_settings_and_all_may_read_them():
    async with two_servers(tenants=TENANTS) as (gateway, tritons):
        answers = [
            (await gateway.status(method, "/v2/logging", headers=headers))[0]
            for method, headers in (("GET", TEAM), ("POST", TEAM), ("POST", OPS), ("POST", {}))
        ]
        assert answers == [200, 403, 200, 403]
        assert [len(triton.seen) for triton in tritons] == [2, 1]


async def test_a_models_own_settings_are_where_the_model_is():
    triton = FakeTriton()
    path = "/v2/models/one/trace/setting"
    async with fronted(triton) as gateway:
        assert (await gateway.status("GET", path))[0] == 200
        status, said, _ = await gateway.status("POST", path, data=b"{}")
        assert (status, "load it first" in said["error"]) == (400, True)
        gateway.fleet.ready.add("one")
        for method in ("GET", "POST"):
            assert (await gateway.status(method, path))[0] == 200
    assert triton.paths == ["/v2/trace/setting", path, path]


async def test_settings_without_a_server_are_502():
    async with front(Fleet(), Rules(models=("one",))) as gateway:
        for path in ("/v2/logging", "/v2/systemsharedmemory/status"):
            assert (await gateway.status("GET", path))[0] == 502


# -- shared memory -------------------------------------------------------------------------------


async def test_a_region_is_registered_with_every_server_and_told_to_one_that_restarts():
    async with two_servers() as (gateway, tritons):
        status, _, _ = await gateway.status("POST", SYSTEM + "/register", json=REGISTRATION)
        assert status == 200
        await gateway.activator.restore("gpu1")
        assert [len(triton.seen) for triton in tritons] == [1, 2]
        for seen in (*tritons[0].seen, *tritons[1].seen):
            assert (seen.path, json.loads(seen.body)) == (SYSTEM + "/register", REGISTRATION)
            assert seen.headers["admin"] == "secret"


async def test_a_region_that_one_server_refuses_is_registered_with_none():
    async with two_servers() as (gateway, tritons):
        tritons[1].answers.append((400, "no such key"))
        got = await gateway.status("POST", SYSTEM + "/register", json=REGISTRATION)
        assert got[:2] == (400, {"error": "no such key"})
        assert tritons[0].paths == [SYSTEM + "/register", SYSTEM + "/unregister"]
        await gateway.activator.restore("gpu0")
        assert len(tritons[0].seen) == 2


@pytest.mark.parametrize("path", [SYSTEM, "/v2/systemsharedmemory"])
async def test_a_region_that_was_unregistered_is_forgotten(path):
    async with two_servers() as (gateway, tritons):
        await gateway.status("POST", SYSTEM + "/register", json=REGISTRATION)
        assert (await gateway.status("POST", path + "/unregister"))[0] == 200
        assert [triton.paths[-1] for triton in tritons] == [path + "/unregister"] * 2
        await gateway.activator.restore("gpu0")
        assert len(tritons[0].seen) == 2


async def test_a_region_of_a_gpu_is_kept_with_its_handle():
    path = "/v2/cudasharedmemory/region/a%2Fb/register"
    handle = base64.b64encode(bytes(range(64))).decode()
    sent = {"raw_handle": {"b64": handle}, "device_id": 1, "byte_size": 64}
    triton = FakeTriton()
    async with fronted(triton) as gateway:
        assert (await gateway.status("POST", path, json=sent))[0] == 200
        await gateway.activator.restore("gpu0")
    assert triton.paths == [path, path]
    assert json.loads(triton.seen[1].body) == sent


async def test_a_region_that_a_restarted_server_does_not_take_does_not_stop_the_others(caplog):
    async with two_servers() as (gateway, tritons):
        for name in ("in", "out"):
            path = f"/v2/systemsharedmemory/region/{name}/register"
            await gateway.status("POST", path, json=REGISTRATION)
        tritons[0].answers.append((400, "no such key"))
        await gateway.activator.restore("gpu0")
        assert len(tritons[0].seen) == 4
        assert "does not take region=in: " in caplog.text
        gateway.fleet.endpoints["gpu0"] = endpoint("127.0.0.1:1")
        await gateway.activator.restore("gpu0")
        assert "has not been told of region=out" in caplog.text


async def test_tenants_share_no_memory():
    async with two_servers(tenants=TENANTS) as (gateway, tritons):
        for method, path in (("GET", "/status"), ("POST", "/register"), ("POST", "/unregister")):
            status, said, _ = await gateway.status(method, SYSTEM + path, headers=OPS)
            assert (status, "could be read by every other" in said["error"]) == (403, True)
        assert [triton.seen for triton in tritons] == [[], []]


async def test_memory_of_this_machine_is_nothing_to_a_server_elsewhere():
    async with two_servers(pids=(1, None)) as (gateway, tritons):
        status, said, _ = await gateway.status("POST", SYSTEM + "/register", json=REGISTRATION)
        assert (status, "'gpu1' may run on another machine" in said["error"]) == (409, True)
        assert [triton.seen for triton in tritons] == [[], []]


def test_a_handle_is_not_shown():
    assert "secret" not in repr(Region("cuda", "out", 8, raw_handle=b"secret"))
