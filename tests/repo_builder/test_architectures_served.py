"""Every architecture of the table, built for real and served by a real tritonserver."""

from __future__ import annotations

import pytest

from repo_builder.pipeline import build_fleet
from tests.repo_builder.architectures import ARCHITECTURES
from tests.repo_builder.builders import shop
from tritonfleet.server.layout import read_manifest

pytestmark = [pytest.mark.build, pytest.mark.triton, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("architectures")
    report = build_fleet(shop(folder, ARCHITECTURES, proof=True))
    results = {result.model: result for result in report.results}
    return results, read_manifest(folder / "repository").models


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_a_server_answers_like_the_original_at_each_declared_batch_size(built, model):
    results, published = built
    assert results[model].status == "built", results[model].error
    proof = published[model].proof
    assert proof is not None
    assert proof.batch_sizes == ((1,) if model == "clip" else (1, 8))
    assert proof.worst is not None and proof.worst < 1e-4
    footprint = published[model].footprint
    assert footprint is not None
    assert 0 < footprint.weights_bytes <= footprint.peak_bytes
