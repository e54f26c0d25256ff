"""Where the figure for a model's memory comes from."""

from __future__ import annotations

import pytest

from tests.tiny import adder_fleet
from tritonfleet.controller.footprint import (
    GROWTH,
    PROCESS_BYTES,
    WEIGHTS_FACTOR,
    FootprintStore,
    known_footprint,
)
from tritonfleet.server.layout import ManifestEntry

ENTRY = ManifestEntry(
    fingerprint="f", version=1, backend="onnxruntime", source={}, digest="d", artifact_bytes=1000
)


@pytest.fixture
def store(tmp_path):
    return FootprintStore(tmp_path / "state" / "footprints.json")


@pytest.fixture
def fleet(tmp_path):
    ensemble = "{kind: ensemble, steps: [{model: one}], outputs: [y]}"
    extra = f"  open: {{source: *adder}}\n  both: {{source: {ensemble}}}\n"
    return adder_fleet(tmp_path, {"one": "40MiB"}, extra=extra)


def test_what_is_declared_wins(fleet, store):
    store.record("one", "d", 5)
    assert known_footprint(fleet, "one", ENTRY, store) == 40 * 2**20


def test_an_unmeasured_model_is_estimated_from_its_files(fleet, store):
    expected = PROCESS_BYTES + int(WEIGHTS_FACTOR * 1000)
    assert known_footprint(fleet, "open", ENTRY, store) == expected


def test_a_measurement_replaces_the_estimate_and_survives_a_restart(fleet, store, tmp_path):
    store.record("open", "d", 1000)
    again = FootprintStore(tmp_path / "state" / "footprints.json")
    assert known_footprint(fleet, "open", ENTRY, again) == int(1000 * GROWTH)


def test_a_rebuilt_model_is_measured_anew(fleet, store):
    store.record("open", "old digest", 123)
    assert known_footprint(fleet, "open", ENTRY, store) > 123


def test_the_largest_measurement_counts(store):
    charged = [store.record("m", "d", size) for size in (500, 900, 700)]
    assert charged == [int(size * GROWTH) for size in (500, 900, 900)]


def test_an_ensemble_takes_nothing_of_its_own(fleet, store):
    assert known_footprint(fleet, "both", None, store) == 0


def test_a_damaged_store_is_forgotten(tmp_path):
    path = tmp_path / "footprints.json"
    path.write_text("[1]")
    assert FootprintStore(path).get("m", "d") is None
