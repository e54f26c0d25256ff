"""Checks that ask what the fleet itself would ask; each of those has tests of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.doctor.builders import container, embedded, needs, statuses
from tritonfleet.doctor.checks import CHECKS
from tritonfleet.doctor.machine import Machine
from tritonfleet.spec import ServerSpec
from tritonfleet.spec.traffic import AccessSpec

KEYED = AccessSpec.model_validate({"tenants": {"web": {"api_keys": ["file:web.key"]}}})
EXTERNAL = ServerSpec(
    name="there", capacity=0, launcher="external", http_url="h:1", grpc_url="h:2",
    admin_secret="env:TRITONFLEET_TEST_SECRET",
)  # fmt: skip


def found(name, fleet):
    return CHECKS[name](fleet, Machine())


# -- access ----------------------------------------------------------------------------------


def test_a_fleet_without_keys_refers_to_nothing():
    assert statuses(found("access", needs(embedded()))) == ["not needed"]


def test_a_key_that_is_not_where_the_fleet_file_says_fails(tmp_path):
    fleet = replace(needs(embedded()), access=KEYED, folder=tmp_path)
    assert statuses(found("access", fleet)) == ["failed"]
    (tmp_path / "web.key").write_text("0123456789abcdef0123456789abcdef")
    assert statuses(found("access", fleet)) == ["ok"]


def test_the_secret_of_a_server_that_runs_already_must_be_at_hand(monkeypatch):
    monkeypatch.delenv("TRITONFLEET_TEST_SECRET", raising=False)
    assert statuses(found("access", needs(EXTERNAL))) == ["failed"]
    monkeypatch.setenv("TRITONFLEET_TEST_SECRET", "sesame")
    [finding] = found("access", needs(EXTERNAL))
    assert finding.status == "ok"
    assert "sesame" not in finding.found


# -- software --------------------------------------------------------------------------------


def test_an_embedded_server_runs_on_the_wheel():
    [finding] = found("python", needs(embedded()))
    assert (finding.status, "tritonserver" in finding.found) == ("ok", True)


def test_all_packages_that_this_checkout_needs_are_installed():
    assert statuses(found("packages", needs(embedded(), container()))) == ["ok"]


def test_an_envoy_that_is_not_there_fails_in_its_own_words():
    [finding] = found("envoy", needs(embedded(), envoy="/no/such/envoy"))
    assert finding.status == "failed"
    assert "/no/such/envoy" in finding.found
    assert statuses(found("envoy", needs(embedded(), attached_envoy=True))) == ["not needed"]


@pytest.mark.envoy
def test_the_packaged_envoy_is_found():
    assert statuses(found("envoy", needs(embedded()))) == ["ok"]


# -- repository ------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text('name: "m"')
    for part in (tmp_path, folder.parent, folder):
        part.chmod(0o755)
    return folder.parent


def test_a_repository_must_be_readable_for_the_user_of_a_container(repository):
    server = container(user="4242:4242", engine="unix:///no/such.sock")
    fleet = needs(server, models=["m"], repository=repository)
    assert statuses(found("repository", fleet)) == ["ok"]
    (repository / "m").chmod(0o700)
    [finding] = found("repository", fleet)
    assert finding.status == "failed"
    assert "4242" in finding.found


def test_whoever_runs_an_embedded_server_reads_what_is_his(repository):
    (repository / "m").chmod(0o700)
    assert statuses(
        found("repository", needs(embedded(), models=["m"], repository=repository))
    ) == ["ok"]
