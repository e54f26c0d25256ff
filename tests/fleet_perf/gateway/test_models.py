from __future__ import annotations

import numpy
import onnxruntime
import pytest

from fleet_perf.gateway import models
from fleet_perf.gateway.models import BIG, BIG_VALUES, COMPUTE, SHAPES, SMALL, write_repository
from tritonfleet.server.pbtxt import read_config
from tritonfleet.spec import load_fleet


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_depth", lambda: 3)
    write_repository(tmp_path)
    return tmp_path


def answer(repository, name, values):
    session = onnxruntime.InferenceSession(repository / name / "1" / "model.onnx")
    return session.run(None, {"x": numpy.asarray(values, numpy.float32)})[0]


def test_small_and_big_answer_what_they_are_asked(repository):
    values = numpy.random.default_rng(1).random(BIG_VALUES, numpy.float32)
    assert (answer(repository, BIG, values) == values).all()
    assert (answer(repository, SMALL, values[:4]) == values[:4]).all()
    assert values.nbytes == 600_000


def test_what_computes_depends_on_what_it_is_asked(repository):
    one, other = (answer(repository, COMPUTE, [value, 0, 0, 0]) for value in (0.0, 1.0))
    assert one.shape == (1,)
    assert numpy.isfinite([one, other]).all()
    assert one != other


def test_depth_follows_the_machine(monkeypatch):
    monkeypatch.setattr(models, "_seconds", lambda _: 16 * 0.1e-3)
    assert models._depth() == 70  # of 0.1 ms each


def test_configurations_and_fleet_are_valid(repository, tmp_path):
    for shape in SHAPES:
        config = read_config(repository, shape.name)
        assert list(config.input[0].dims) == [shape.inputs]
    models.write_fleet(tmp_path / "fleet.yaml")
    assert set(load_fleet(tmp_path / "fleet.yaml").models) == {SMALL, BIG, COMPUTE}
