"""What the fleet file says reaches the ledger and the gateway, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import adder_fleet
from tritonfleet.errors import InvalidSpec
from tritonfleet.facts import deployed, gateway_plan, model_facts, server_facts, wants_rate_limit
from tritonfleet.gateway.envoy.plan import Access, ServerAddress
from tritonfleet.orders import ServerLink
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.settings import Settings
from tritonfleet.spec import ServerSpec

EXTRA = """\
  limited:
    source: *adder
    residency: {priority: 2}
    limits: {max_concurrency: 3, queue_limit: 4}
    fallback: [one]
    mirror: {model: one}
    labels: {latency-class: batch}
  both:
    source: {kind: ensemble, steps: [{model: one}, {model: limited}], outputs: [y]}
access:
  tenants:
    inside: {api_keys: ["env:KEY"], models: [one, "*limited"]}
    outside: {api_keys: ["env:OTHER"]}
"""
LINK = ServerLink("local", Endpoint("h:1", "h:2"))


@pytest.fixture
def spec(tmp_path):
    return adder_fleet(tmp_path, {"one": "1MiB"}, capacity="1GiB", extra=EXTRA)


def plan(spec, **settings):
    settings = spec.settings.model_copy(update=settings)
    return gateway_plan(spec, settings, Path("/run/x"), (LINK,), Access(), {})


def test_the_ledger_knows_limits_priorities_and_members(spec):
    facts = {each.name: each for each in model_facts(spec, spec.settings.repository, len)}
    assert set(facts) == set(spec.models)
    limited = facts["limited"]
    assert (limited.priority, limited.max_concurrency, limited.queue_limit) == (2, 3, 4)
    assert limited.footprint == len("limited")
    assert facts["both"].requires == ("one", "limited")


def test_a_model_with_sequences_may_hold_state(spec):
    repository = spec.settings.repository
    config = repository / "one" / "config.pbtxt"
    published = config.read_text().partition("dynamic_batching")[0]
    for text, idle_s in (
        ("sequence_batching { max_sequence_idle_microseconds: 2500000 }", 2.5),
        ("# no sequence_batching", 0.0),
        ("sequence_batching {", 0.0),  # Triton will say what is wrong with it
    ):
        config.write_text(f"{published}{text}\n")
        facts = {each.name: each for each in model_facts(spec, repository, len)}
        assert facts["one"].state_idle_s == idle_s
        assert facts["both"].state_idle_s == 0.0  # it is not even built


def test_a_server_promises_its_budget(spec):
    (server,) = server_facts(spec, spec.settings)
    assert server.capacity == spec.servers[0].budget
    assert server.name == "local"


def test_instances_that_share_resources_are_noticed(tmp_path, spec):
    assert not wants_rate_limit(spec)
    group = "    serving: {instance_group: [{count: 1, rate_limiter: {priority: 1}}]}\n"
    extra = "  shared:\n    source: *adder\n" + group
    assert wants_rate_limit(adder_fleet(tmp_path / "b", {"one": "1MiB"}, extra=extra))


def test_the_gateway_knows_every_model_and_who_may_call_it(spec):
    models = {model.name: model for model in plan(spec).models}
    assert set(models) == set(spec.models)
    limited = models["limited"]
    assert limited.limits.max_concurrency == 3
    assert (limited.has_fallback, limited.mirrored) == (True, True)
    assert limited.latency_class == "batch"
    assert models["one"].latency_class == "interactive"
    assert models["both"].tenants == ("outside",)
    assert models["one"].tenants is None  # whoever is let in


def test_the_gateway_listens_where_the_settings_say(spec):
    made = plan(spec, host="0.0.0.0", http_port=1, grpc_port=2, envoy_concurrency=3)
    assert (made.host, made.http_port, made.grpc_port, made.concurrency) == ("0.0.0.0", 1, 2, 3)
    assert made.servers == (ServerAddress("local", "h:1", "h:2"),)
    assert plan(spec, envoy_concurrency=None).concurrency >= 1


@pytest.mark.parametrize(
    ("which", "logged", "only_notable"),
    [("all", True, False), ("notable", True, True), ("off", False, False)],
)
def test_the_access_log_is_what_was_asked_for(spec, which, logged, only_notable):
    made = plan(spec, access_log=which)
    assert made.only_notable == only_notable
    assert (made.access_log is not None) == logged
    if logged:
        assert made.access_log.is_absolute()


# -- how servers are started ---------------------------------------------------------------------

FAR = ServerSpec(name="far", capacity=1, launcher="external", http_url="f:1", grpc_url="f:2")
NEAR = ServerSpec(name="near", capacity=1, admin_secret="env:OURS")


def test_without_a_word_every_server_is_as_the_file_says():
    assert deployed([NEAR, FAR], Settings()) == (NEAR, FAR)


def test_a_launcher_of_the_settings_holds_for_all_but_those_with_an_address():
    near, far = deployed([NEAR, FAR], Settings(launcher="container"))
    assert (near.launcher, far) == ("container", FAR)


@pytest.mark.parametrize(
    ("addresses", "metrics_url"), [("h:1,h:2", None), (" h:1 , [::1]:2,h:3 ", "h:3")]
)
def test_an_attached_server_is_reached_where_it_is_said_whatever_the_launcher(
    addresses, metrics_url
):
    settings = Settings(launcher="container", attach={"near": addresses})
    near, far = deployed([NEAR, FAR], settings)
    assert (near.launcher, near.http_url, near.metrics_url) == ("external", "h:1", metrics_url)
    assert near.grpc_url in ("h:2", "[::1]:2")
    assert (near.capacity, near.admin_secret, far) == (NEAR.capacity, "env:OURS", FAR)


def test_the_secret_of_the_settings_wins():
    settings = Settings(attach={"near": "h:1,h:2"}, admin_secret="file:theirs")
    assert deployed([NEAR], settings)[0].admin_secret == "file:theirs"


@pytest.mark.parametrize(
    "addresses", ["", "h:1", "h,h:2", "http://h:1,h:2", "h:1,h:2,h:3,h:4", "h:1,h:b"]
)
def test_an_address_that_cannot_be_one_is_told_with_its_server(addresses):
    with pytest.raises(InvalidSpec, match=r"near: .* is not 'host:port,host:port'"):
        deployed([NEAR], Settings(attach={"near": addresses}))


def test_all_mistakes_of_attached_servers_are_told_at_once():
    settings = Settings(attach={"nera": "h:1,h:2", "near": "h"})
    with pytest.raises(InvalidSpec) as caught:
        deployed([NEAR, FAR], settings)
    assert [problem.path for problem in caught.value.problems] == ["nera", "near"]
    assert "near, far" in str(caught.value)
