"""What the fleet file says reaches the ledger and the gateway, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import adder_fleet
from tritonfleet.facts import gateway_plan, model_facts, server_facts, wants_rate_limit
from tritonfleet.gateway.envoy.plan import Access, ServerAddress
from tritonfleet.orders import ServerLink
from tritonfleet.server.endpoint import Endpoint

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
