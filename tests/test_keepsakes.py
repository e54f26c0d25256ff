"""What is measured and pinned survives the brain."""

from __future__ import annotations

import pytest

from tests.tiny import adder_fleet
from tritonfleet import keepsakes
from tritonfleet.controller.footprint import Home
from tritonfleet.keepsakes import Footprints, Pins

MIB = 2**20
PINNED = "  always:\n    source: *adder\n    residency: {pinned: true, footprint: 1MiB}\n"


@pytest.fixture
def spec(tmp_path):
    free = "  free:\n    source: *adder\n"
    spec = adder_fleet(tmp_path, {"one": "2MiB", "two": "2MiB"}, extra=PINNED + free)
    (tmp_path / "repository" / "manifest.json").write_text(
        '{"models": {"free": {"digests": {"model.onnx": "abc"}}}}'
    )
    return spec


@pytest.fixture
def footprints(spec, tmp_path):
    return lambda: Footprints(
        spec, tmp_path / "repository", tmp_path / "footprints.json", told=False
    )


async def test_a_declared_footprint_is_charged_at_least(footprints):
    ours = footprints()
    assert ours.known("one", None) == 2 * MIB
    assert ours.record("one", Home.PROCESS, 1 * MIB) == 2 * MIB
    assert ours.record("one", Home.PROCESS, 3 * MIB) == 3 * MIB


async def test_many_measurements_are_written_once_and_a_little_later(
    footprints, monkeypatch, tmp_path
):
    monkeypatch.setattr(keepsakes, "SAVE_S", 0.0)
    ours, written = footprints(), []
    save = ours._store.save
    monkeypatch.setattr(ours._store, "save", lambda text: (written.append(text), save(text)))
    for size in (1, 2, 3):
        ours.record("two", Home.PROCESS, size * MIB)
        ours.record("free", Home.PROCESS, size * MIB)
    await ours._saving
    assert len(written) == 1


async def test_nothing_is_lost_when_the_brain_ends_at_once(footprints, spec):
    ours = footprints()
    charged = ours.record("free", Home.PROCESS, 77 * MIB)
    await ours.save()
    later = footprints()
    assert later.known("free", None) == charged


def test_pins_of_people_come_back_beside_those_of_the_file(spec, tmp_path):
    pins = Pins(spec, tmp_path / "pins.json")
    assert pins.load() == ["always"]
    pins.save(frozenset({"always", "two"}))
    assert Pins(spec, tmp_path / "pins.json").load() == ["always", "two"]


def test_a_pin_of_a_model_that_has_left_the_fleet_is_forgotten(spec, tmp_path):
    (tmp_path / "pins.json").write_text('["gone", "one"]')
    assert Pins(spec, tmp_path / "pins.json").load() == ["always", "one"]


@pytest.mark.parametrize("text", ["", "{", "7"])
def test_a_broken_file_is_no_pins(spec, tmp_path, text):
    (tmp_path / "pins.json").write_text(text)
    assert Pins(spec, tmp_path / "pins.json").load() == ["always"]
