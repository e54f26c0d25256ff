"""What a rollout refuses, remembers and tells; that it works is shown on a real tritonserver."""

from __future__ import annotations

import json

import pytest

from tests.controller.imitation import Triton, controlling, until
from tests.controller.test_controller_direct import used
from tests.controller.versions import Notes, publish
from tritonfleet.controller import rollout as module
from tritonfleet.controller.ledger import ModelFacts
from tritonfleet.controller.rollout import Rollouts, recorded_splits
from tritonfleet.controller.versions import config_with, entry_of, parts_of, sequence_idle_s
from tritonfleet.errors import ModelNotFound, RolloutRefused
from tritonfleet.server.pbtxt import parse_config
from tritonfleet.spec.traffic import RolloutSpec

MODELS = [ModelFacts("one", 4), ModelFacts("both", 0, requires=("one",))]


@pytest.fixture
def repository(tmp_path):
    """Two versions of 'one'; the fake server has the first."""
    publish(tmp_path / "repository", "one", 1)
    publish(tmp_path / "repository", "one", 2)
    return tmp_path / "repository"


def rollouts(repository, strategy="canary", **options):
    rule = RolloutSpec(strategy=strategy)
    return Rollouts(repository, rules=lambda _: rule, watch=False, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.start("one", 7), "version 7 is not published; there is 1, 2"),
        (lambda r: r.start("one", 1, 10.0), "version 1 serves already"),
        (lambda r: r.promote("one"), "no version of it is on trial"),
        (lambda r: r.rollback("one"), "no earlier version is known"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_the_reason(repository, call, message):
    async with controlling(Triton(), {"one": 4}, rollouts=rollouts(repository)) as controller:
        await used(controller, "one")
        with pytest.raises(RolloutRefused, match=message):
            await call(controller.rollouts)


async def test_a_member_of_an_ensemble_takes_no_canary_because_the_ensemble_would_take_all(
    repository,
):
    async with controlling(Triton(), MODELS, rollouts=rollouts(repository)) as controller:
        with pytest.raises(RolloutRefused, match="'both' runs through it"):
            await controller.rollouts.start("one", 2, 10.0)


async def test_a_model_that_is_not_of_the_fleet_has_no_rollout(repository):
    async with controlling(Triton(), {"one": 4}, rollouts=rollouts(repository)) as controller:
        with pytest.raises(ModelNotFound):
            controller.rollouts.status("two")
        with pytest.raises(ModelNotFound):
            await controller.rollouts.start("one@2")


async def test_a_model_whose_configuration_serves_several_versions_takes_no_canary(repository):
    publish(repository, "one", 3, config="version_policy { all {} }")
    async with controlling(Triton(), {"one": 4}, rollouts=rollouts(repository)) as controller:
        with pytest.raises(RolloutRefused, match="several versions"):
            await controller.rollouts.start("one")


async def test_without_a_repository_there_is_nothing_to_roll_out():
    async with controlling(Triton(), {"one": 4}) as controller:
        with pytest.raises(RolloutRefused, match="there is none"):
            await controller.rollouts.start("one")
        assert controller.rollouts.status("one")["versions"] == []


async def test_a_canary_of_a_model_that_is_not_in_memory_waits_for_it(repository, tmp_path):
    state, notes = tmp_path / "rollouts.json", Notes()
    trial = rollouts(repository, state=state, traffic=notes)
    async with controlling(Triton(), {"one": 4}, rollouts=trial, capacity=20) as controller:
        await trial.start("one", 2, 30.0)
        assert trial.pinned_version("one") == "1"
        await used(controller, "one")
        await until(lambda: notes.told[-1] == ("share", 30.0))
    assert notes.told[0] == ("split", 1, 2)
    assert json.loads(state.read_text())["one"]["canary"] == 2
    assert recorded_splits(state) == {"one": (1, 2)}


async def test_a_second_start_of_a_canary_changes_its_share(repository):
    notes = Notes()
    trial = rollouts(repository, traffic=notes)
    async with controlling(Triton(), {"one": 4}, rollouts=trial, capacity=20) as controller:
        await used(controller, "one")
        await trial.start("one", 2, 30.0)
        await trial.start("one", 2, 60.0)
        assert notes.told[1:] == [("share", 30.0), ("share", 60.0)]
        assert trial.status("one")["percent"] == 60.0


async def test_a_damaged_state_file_is_passed_over(repository, tmp_path):
    state = tmp_path / "rollouts.json"
    state.write_text('{"one": {"stable": ', encoding="utf-8")
    trial = rollouts(repository, state=state)
    async with controlling(Triton(), {"one": 4}, rollouts=trial):
        assert trial.status("one")["stable"] == 2


async def test_what_is_published_while_the_fleet_runs_is_noticed(repository, monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 0.005)
    rule = RolloutSpec(strategy="manual")
    watched = Rollouts(repository, rules=lambda _: rule)
    async with controlling(Triton(), {"one": 4}, rollouts=watched):
        await until(lambda: watched.status("one")["stable"] == 2)
        publish(repository, "one", 3)
        await until(lambda: watched.choose_version("one") == 2)
        assert [one["version"] for one in watched.status("one")["versions"]] == [1, 2, 3]


def test_an_entry_names_its_model_and_its_version():
    assert parts_of(entry_of("bert", 7)) == ("bert", 7)
    assert parts_of("bert") == ("bert", None)
    assert parts_of("bert@x") == ("bert@x", None)


def test_triton_is_told_exactly_the_versions_that_are_wanted():
    config = parse_config("m", 'name: "m" max_batch_size: 4 version_policy { latest {} }')
    told = json.loads(config_with(config, {3, 1}))
    assert told["version_policy"] == {"specific": {"versions": ["1", "3"]}}
    assert (told["name"], told["max_batch_size"]) == ("m", 4)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0.0),
        ("sequence_batching {}", 1.0),
        ("sequence_batching { max_sequence_idle_microseconds: 5000000 }", 5.0),
    ],
)
def test_a_sequence_is_held_as_long_as_triton_holds_it(text, seconds):
    assert sequence_idle_s(parse_config("m", f'name: "m" {text}')) == seconds
