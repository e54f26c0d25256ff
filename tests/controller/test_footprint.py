"""Where the figure for a model's memory comes from."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import adder_fleet
from tritonfleet.controller.footprint import (
    GROWTH,
    PROCESS_BYTES,
    SESSION_BYTES,
    WEIGHTS_FACTOR,
    FootprintStore,
    Home,
    PublishedDigests,
    known_footprint,
    scaled,
)
from tritonfleet.server.layout import Footprint, Manifest, ManifestEntry, write_manifest

ENTRY = ManifestEntry(
    fingerprint="f", version=1, backend="onnxruntime", source={}, digest="d", artifact_bytes=1000
)


@pytest.fixture
def store(tmp_path):
    return FootprintStore(tmp_path / "state" / "footprints.json")


@pytest.fixture
def fleet(tmp_path):
    ensemble = "{kind: ensemble, steps: [{model: one}], outputs: [y]}"
    two = "instance_group: [{count: 2}]"
    extra = (
        f"  open: {{source: *adder}}\n  both: {{source: {ensemble}}}\n"
        f"  twice: {{source: *adder, serving: {{{two}}}}}\n"
    )
    return adder_fleet(tmp_path, {"one": "40MiB"}, extra=extra)


def restarted(store, path):
    """The store that a next process finds."""
    store.save(store.unsaved())
    return FootprintStore(path / "state" / "footprints.json")


@pytest.mark.parametrize("home", Home)
def test_what_is_declared_wins(fleet, store, home):
    store.record("one", "d", home, 5)
    assert known_footprint(fleet, "one", ENTRY, store, home) == 40 * 2**20


def test_an_unmeasured_model_is_estimated_from_its_files(fleet, store):
    apart = known_footprint(fleet, "open", ENTRY, store, Home.PROCESS)
    inside = known_footprint(fleet, "open", ENTRY, store, Home.SERVER)
    assert apart == PROCESS_BYTES + WEIGHTS_FACTOR[Home.PROCESS] * 1000
    assert inside == SESSION_BYTES + WEIGHTS_FACTOR[Home.SERVER] * 1000


def test_processes_hold_the_weights_each_and_a_server_once_for_all_instances(fleet, store):
    apart = known_footprint(fleet, "twice", ENTRY, store, Home.PROCESS)
    assert apart == 2 * known_footprint(fleet, "open", ENTRY, store, Home.PROCESS)
    inside = known_footprint(fleet, "twice", ENTRY, store, Home.SERVER)
    assert inside == known_footprint(fleet, "open", ENTRY, store, Home.SERVER)


def built(home, *, weights=600, peak=1000, instances=1, batch_size=8):
    """The manifest's entry of a model that was weighed when it was built."""
    footprint = Footprint(
        weights_bytes=weights,
        peak_bytes=peak,
        instances=instances,
        shared_weights=home == "server",
        home=home,
        batch_size=batch_size,
    )
    return ENTRY.model_copy(update={"footprint": footprint})


@pytest.mark.parametrize("home", Home)
def test_what_was_measured_at_build_replaces_the_estimate(fleet, store, home):
    assert known_footprint(fleet, "open", built(home.value), store, home) == 1000


@pytest.mark.parametrize("home", Home)
def test_what_was_measured_here_replaces_what_was_measured_at_build(fleet, store, home):
    measured = store.record("open", "d", home, 700)
    assert known_footprint(fleet, "open", built(home.value), store, home) == measured


@pytest.mark.parametrize("home", Home)
@pytest.mark.parametrize("elsewhere", ["process", "server", "device"])
def test_what_was_measured_at_build_holds_for_the_same_home_only(fleet, store, home, elsewhere):
    estimate = known_footprint(fleet, "open", ENTRY, store, home)
    found = known_footprint(fleet, "open", built(elsewhere), store, home)
    assert found == (1000 if elsewhere == home.value else estimate)


def test_more_instances_than_at_build_take_more(fleet, store):
    apart = known_footprint(fleet, "twice", built("process"), store, Home.PROCESS)
    shared = known_footprint(fleet, "twice", built("server"), store, Home.SERVER)
    assert (apart, shared) == (2000, 600 + 2 * 400)


def test_fewer_instances_than_at_build_take_less(fleet, store):
    apart = built("process", instances=4)
    shared = built("server", instances=4)
    assert known_footprint(fleet, "open", apart, store, Home.PROCESS) == 250
    assert known_footprint(fleet, "open", shared, store, Home.SERVER) == 600 + 100


def test_a_model_that_was_only_loaded_may_still_grow(fleet, store):
    entry = built("process", peak=1000, batch_size=0)
    expected = int(GROWTH[Home.PROCESS] * 1000)
    assert known_footprint(fleet, "open", entry, store, Home.PROCESS) == expected


@pytest.mark.parametrize("home", Home)
@given(weights=st.integers(1, 2**40), growth=st.integers(0, 2**40))
def test_the_same_number_of_instances_takes_exactly_what_was_measured(home, weights, growth):
    entry = built(home.value, weights=weights, peak=weights + growth, instances=2)
    footprint = entry.footprint
    assert footprint
    found = scaled(footprint, 2, home)
    assert found == weights + growth
    assert scaled(footprint, 3, home) >= found


def test_a_measurement_replaces_the_estimate_and_survives_a_restart(fleet, store, tmp_path):
    store.record("open", "d", Home.PROCESS, 1000)
    again = restarted(store, tmp_path)
    expected = int(1000 * GROWTH[Home.PROCESS])
    assert known_footprint(fleet, "open", ENTRY, again, Home.PROCESS) == expected


def test_what_a_process_took_says_nothing_about_a_model_inside_the_server(fleet, store, tmp_path):
    store.record("open", "d", Home.PROCESS, 5000)
    store.record("open", "d", Home.SERVER, 1200)
    again = restarted(store, tmp_path)
    assert known_footprint(fleet, "open", ENTRY, again, Home.SERVER) == 1200
    assert known_footprint(fleet, "open", ENTRY, again, Home.PROCESS) == 5500


def test_a_rebuilt_model_is_measured_anew(fleet, store, tmp_path):
    store.record("open", "old digest", Home.PROCESS, 123)
    assert known_footprint(fleet, "open", ENTRY, store, Home.PROCESS) > 123 * 2
    store.record("open", "d", Home.PROCESS, 7)
    assert restarted(store, tmp_path).get("open", "old digest", Home.PROCESS) is None


def test_the_largest_measurement_counts(store):
    charged = [store.record("m", "d", Home.PROCESS, size) for size in (500, 900, 700)]
    assert charged == [int(size * GROWTH[Home.PROCESS]) for size in (500, 900, 900)]


def test_only_what_is_new_is_to_be_saved(store):
    store.record("m", "d", Home.SERVER, 500)
    assert store.unsaved() is not None
    store.record("m", "d", Home.SERVER, 400)
    assert store.unsaved() is None


def test_an_ensemble_takes_nothing_of_its_own(fleet, store):
    assert known_footprint(fleet, "both", None, store, Home.PROCESS) == 0


def test_a_damaged_store_is_forgotten(tmp_path):
    path = tmp_path / "footprints.json"
    path.write_text("[1]")
    assert FootprintStore(path).get("m", "d", Home.PROCESS) is None


def test_a_folder_that_cannot_be_written_to_costs_no_more_than_a_warning(tmp_path, caplog):
    store = FootprintStore(tmp_path / "state" / "footprints.json")
    (tmp_path / "state").write_text("a file where the folder should be")
    store.save("{}")
    assert "cannot keep" in caplog.text


def publish(repository, digest):
    entry = ENTRY.model_copy(update={"digest": digest})
    write_manifest(repository, Manifest(models={"m": entry}))


def test_the_digest_is_that_of_the_last_build(tmp_path):
    digests = PublishedDigests(tmp_path)
    assert digests.of("m") == ""
    publish(tmp_path, "first")
    assert (digests.of("m"), digests.of("foreign")) == ("first", "")
    publish(tmp_path, "second")
    assert digests.of("m") == "second"


def test_a_manifest_that_did_not_change_is_not_read_again(tmp_path, monkeypatch):
    publish(tmp_path, "first")
    digests, reads = PublishedDigests(tmp_path), []
    monkeypatch.setattr(
        "tritonfleet.controller.footprint.read_manifest",
        lambda path: reads.append(path) or Manifest(models={"m": ENTRY}),
    )
    assert {digests.of("m") for _ in range(5)} == {"d"}
    assert len(reads) == 1


def test_a_damaged_manifest_leaves_what_was_known(tmp_path):
    publish(tmp_path, "first")
    digests = PublishedDigests(tmp_path)
    assert digests.of("m") == "first"
    (tmp_path / "manifest.json").write_text("{damaged")
    os.utime(tmp_path / "manifest.json", ns=(1, 1))
    assert digests.of("m") == "first"
