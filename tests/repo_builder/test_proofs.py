"""Whole builds with a real tritonserver that has to serve each model before it is published."""

from __future__ import annotations

import numpy as np
import pytest

from repo_builder.pipeline import build_fleet
from tests.repo_builder.builders import ensemble, files, python_model, shop
from tritonfleet.errors import ProofFailed
from tritonfleet.server.layout import read_manifest

pytestmark = pytest.mark.triton

DYING = """
class TritonPythonModel:
    def initialize(self, args):
        raise ValueError("no such table")
"""
SILENT = """
class TritonPythonModel:
    def execute(self, requests):
        raise ValueError("only real texts, please")
"""


@pytest.fixture
def built(tmp_path):
    """A good model, an ensemble of it, and two that Triton would not serve."""
    models = {
        "echo": python_model(tmp_path, "echo"),
        "twice": ensemble(
            "echo", {"model": "echo", "input_map": {"x": "y"}, "output_map": {"y": "z"}},
            outputs=["z"],
        ),
        "dying": python_model(tmp_path, "dying", code=DYING),
        "silent": python_model(tmp_path, "silent", code=SILENT),
    }  # fmt: skip
    report = build_fleet(shop(tmp_path, models, proof=True))
    return tmp_path, models, {result.model: result for result in report.results}


def test_only_what_a_server_serves_is_published(built):
    folder, models, results = built
    statuses = {model: result.status for model, result in results.items()}
    assert statuses == {"echo": "built", "twice": "built", "dying": "failed", "silent": "failed"}
    assert sorted(read_manifest(folder / "repository").models) == ["echo", "twice"]
    for model, words in (("dying", "no such table"), ("silent", "only real texts")):
        assert isinstance(results[model].error, ProofFailed)
        assert words in str(results[model].error)

    entry = read_manifest(folder / "repository").models["echo"]
    assert entry.proof is not None and entry.proof.batch_sizes == (1, 8)
    assert entry.footprint is not None and entry.footprint.peak_bytes > 2**20
    assert entry.footprint.home == "process"

    # The version that serves stays when the next one is no good.
    (folder / "echo" / "model.py").write_text(DYING)
    before = files(folder / "repository")
    report = build_fleet(shop(folder, {"echo": models["echo"]}, proof=True))
    assert [result.status for result in report.results] == ["failed"]
    assert files(folder / "repository") == before

    # What cannot answer made-up inputs is asked with real ones, or only loaded.
    models["silent"]["export"] = {"proof": "load"}
    (result,) = build_fleet(shop(folder, {"silent": models["silent"]}, proof=True)).results
    assert result.status == "built", result.error


PICKY = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        values = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        if not (values == 7).all():
            raise ValueError("not my numbers")
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", values)])
"""


def test_a_python_model_is_asked_with_its_examples(tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.full((3, 4), 7, np.float32))
    model = python_model(tmp_path, "picky", code=PICKY)
    (result,) = build_fleet(shop(tmp_path, {"picky": model}, proof=True)).results
    assert "not my numbers" in str(result.error)
    model["export"] = {"examples": "rows.npz"}
    (result,) = build_fleet(shop(tmp_path, {"picky": model}, proof=True)).results
    assert result.status == "built", result.error
