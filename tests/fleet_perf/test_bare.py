from __future__ import annotations

import pytest

from fleet_perf.bare import BareStart, bare_triton, check_repository
from fleet_perf.inputs import make_inputs
from tests.fleet_perf import tiny
from tests.fleet_perf.builders import config, tensor
from tritonfleet.errors import InvalidSpec, LoadFailed
from tritonfleet.server.client import InferenceRefused

TENSORS = make_inputs(config(tensor("x", "FP32", [4])))


def test_a_start_lasts_until_the_answer():
    assert BareStart(load_s=2.0, infer_s=0.5).total_s == 2.5


def test_a_repository_without_the_fleets_models_is_bad_input(tmp_path):
    with pytest.raises(InvalidSpec, match="does not hold a, b"):
        check_repository(tmp_path, ["b", "a"])


@pytest.mark.triton
async def test_every_start_is_a_new_load(tmp_path):
    repository = tiny.repository(tmp_path / "repository")
    async with bare_triton(repository, tmp_path) as bare:
        for _ in range(2):
            assert (await bare.start(tiny.MODEL, TENSORS)).load_s > 0
            states = await bare._client.states()
            assert states[tiny.MODEL].reason == "unloaded"  # so the next start loads it anew


@pytest.mark.triton
async def test_a_model_that_does_not_load_and_a_request_that_does_not_fit_are_told(tmp_path):
    repository = tiny.repository(tmp_path / "repository")
    wrong = make_inputs(config(tensor("x", "FP32", [5])))
    async with bare_triton(repository, tmp_path) as bare:
        with pytest.raises(InferenceRefused, match="unexpected shape"):
            await bare.start(tiny.MODEL, wrong)
        with pytest.raises(LoadFailed):
            await bare.start("none", TENSORS)
        assert (await bare.start(tiny.MODEL, TENSORS)).total_s > 0
