"""What is read out of Envoy's answers, and what is said when there are none."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.envoy.running import short_folder
from tritonfleet.errors import ServerTimeout, ServerUnreachable
from tritonfleet.gateway.envoy.admin import Admin, Subscription, _active

CLUSTERS = """\
http/bert::observability_name::http/bert
http/bert::default_priority::max_pending_requests::1000000
http/bert::127.0.0.1:8000::cx_active::7
http/bert::127.0.0.1:8000::rq_active::2
http/bert::127.0.0.1:8000::rq_pending_active::3
http/bert::127.0.0.1:8000::rq_total::99
http/bert::127.0.0.1:9000::rq_active::10
http/bert::/run/tritonfleet/activator-http.sock::rq_active::5
http/bert::/run/tritonfleet/activator-http.sock::rq_pending_active::6
grpc/bert::[::1]:8001::rq_active::4
grpc/bert::[::1]:8001::rq_pending_active::0
"""
STATISTICS = """\
cluster_manager.cds.update_rejected: 2
cluster_manager.cds.version_text: "1f2e"
http.http.rds.models.version_text: "with \\"quotes\\""
listener_manager.lds.update_rejected: 0
"""


@contextlib.asynccontextmanager
async def answering(answers: dict[str, str]):
    """An Envoy that answers so; its requests are kept."""
    asked: list[web.Request] = []
    over = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        asked.append(request)
        if request.path not in answers:
            await over.wait()
        return web.Response(text=answers.get(request.path, ""))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    with short_folder() as folder:
        await web.UnixSite(runner, str(folder / "admin.sock")).start()
        admin = Admin(folder / "admin.sock", timeout_s=0.2)
        try:
            yield admin, asked
        finally:
            over.set()
            await admin.close()
            await runner.cleanup()


async def test_requests_at_servers_count_and_those_at_the_activator_do_not():
    async with answering({"/clusters": CLUSTERS}) as (admin, _):
        assert await admin.under_way(["http/bert", "grpc/bert"]) == {
            "http/bert": 15,
            "grpc/bert": 4,
        }


@given(
    st.dictionaries(
        st.from_regex(r"(http|grpc)/[A-Za-z0-9_.-]{1,20}", fullmatch=True),
        st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=4),
    )
)
def test_the_sum_over_servers_is_what_is_under_way(clusters):
    lines = [
        f"{cluster}::{'/a/b.sock' if shared else f'10.0.0.{number}:80'}::rq_active::{count}"
        for cluster, hosts in clusters.items()
        for number, (count, shared) in enumerate(hosts)
    ]
    sums = {
        cluster: sum(count for count, shared in hosts if not shared)
        for cluster, hosts in clusters.items()
    }
    found = _active("".join(f"{line}\n" for line in lines).encode())
    assert found == {cluster: total for cluster, total in sums.items() if total}


async def test_only_the_clusters_that_are_meant_are_asked_for():
    async with answering({"/clusters": ""}) as (admin, asked):
        assert await admin.under_way([f"http/a.{number}" for number in range(450)]) == {}
        assert await admin.under_way([]) == {}
        assert len(asked) == 3
        assert asked[0].query["filter"].startswith(r"^(http/a\.0|http/a\.1|")


async def test_subscriptions_tell_version_and_refusals():
    async with answering({"/stats": STATISTICS}) as (admin, _):
        assert await admin.subscriptions() == {
            "cluster_manager.cds": Subscription("1f2e", 2),
            "http.http.rds.models": Subscription('with "quotes"', 0),
            "listener_manager.lds": Subscription("", 0),
        }


async def test_what_prometheus_wants_is_passed_on_as_it_is_without_what_was_never_touched():
    async with answering({"/stats/prometheus": "envoy_server_live{} 1\n"}) as (admin, asked):
        assert await admin.prometheus() == b"envoy_server_live{} 1\n"
    assert "usedonly" in asked[0].query


async def test_the_admin_interface_itself_is_no_client():
    gauges = "http.admin.downstream_rq_active: 1\nhttp.http.downstream_rq_active: 3\n"
    async with answering({"/stats": gauges}) as (admin, _):
        assert await admin.downstream_active() == 3


async def test_nobody_there_and_no_answer_are_two_things():
    with short_folder() as folder:
        admin = Admin(folder / "admin.sock")
        assert not await admin.ready()
        with pytest.raises(ServerUnreachable):
            await admin.runtime()
        await admin.close()
    async with answering({}) as (admin, _):
        assert not await admin.ready()
        with pytest.raises(ServerTimeout):
            await admin.runtime()
