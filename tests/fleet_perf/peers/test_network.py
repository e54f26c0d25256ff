from __future__ import annotations

import numpy
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from fleet_perf.peers.job import Network
from fleet_perf.peers.network import write_network

SMALL = Network(vocabulary=20, width=8, layers=(6, 3))


@pytest.fixture
def path(tmp_path):
    write_network(tmp_path / "m" / "1" / "model.onnx", SMALL, seed=1)
    return tmp_path / "m" / "1" / "model.onnx"


def test_it_computes_what_it_says_for_any_number_of_rows(path):
    tensors = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for rows in (1, 3):
        ids = numpy.random.default_rng(0).integers(SMALL.vocabulary, size=(rows, 5))
        (scores,) = session.run(None, {"ids": ids})
        mean = tensors["table"][ids].mean(axis=1)
        hidden = numpy.maximum(mean @ tensors["weight0"] + tensors["bias0"], 0)
        expected = hidden @ tensors["weight1"] + tensors["bias1"]
        numpy.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_the_file_holds_the_weights_and_little_else(path):
    assert 0 < path.stat().st_size - SMALL.weight_bytes < 1500


def test_each_seed_has_weights_of_its_own(path, tmp_path):
    write_network(tmp_path / "again.onnx", SMALL, seed=1)
    write_network(tmp_path / "other.onnx", SMALL, seed=2)
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    assert (tmp_path / "other.onnx").read_bytes() != path.read_bytes()
