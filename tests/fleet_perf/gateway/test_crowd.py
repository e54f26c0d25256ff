from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

from fleet_perf.gateway.crowd import LARGE, SMALL
from tritonfleet.spec import load_fleet


@pytest.mark.parametrize("crowd", [LARGE, SMALL])
def test_a_third_of_the_models_fits_and_no_more(crowd):
    room = crowd.capacity // crowd.footprint
    assert room == crowd.job.room
    assert 3 * room == len(crowd.names)
    assert crowd.footprint > crowd.job.network.weight_bytes


def test_fleet_and_repository_hold_the_same_models(tmp_path):
    crowd = replace(SMALL, job=replace(SMALL.job, models=3, room=1))
    fleet_file, repository = crowd.write(tmp_path)
    fleet = load_fleet(fleet_file)
    assert sorted(fleet.models) == sorted(path.name for path in repository.iterdir())
    assert fleet.servers[0].budget == crowd.capacity


def test_a_request_asks_for_known_ids():
    ids = numpy.frombuffer(SMALL.request()[0].raw, "<i8")
    assert ids.max() < SMALL.job.network.vocabulary
