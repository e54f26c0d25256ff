"""Builds that try several exporters and variants, for real, and publish the best that passes."""

from __future__ import annotations

import pytest

from repo_builder.pipeline import build_fleet
from tests.repo_builder.builders import files, shop, torch_model
from tritonfleet.server.layout import read_manifest
from tritonfleet.server.pbtxt import read_config

pytestmark = pytest.mark.build

VARIANTS = [
    {"format": "onnx"},
    {"format": "onnx", "precision": "fp16"},
    {"format": "onnx", "quantize": "dynamic"},
    {"format": "onnx", "quantize": "static"},
    {"format": "tensorrt", "precision": "fp16"},
]
MEASURE = {"seconds": 0.05, "batch_sizes": [1, 4]}


def entry_of(folder, model):
    return read_manifest(folder / "repository").models[model]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    export = {"variants": VARIANTS, "choose": "min_memory", "measure": MEASURE,
              "parity": {"min_cosine_similarity": 0.9}}  # fmt: skip
    (result,) = build_fleet(shop(folder, {"deep": torch_model("deep", export=export)})).results
    assert result.status == "built", result.error
    return folder, result


def test_every_variant_is_on_record_with_its_figures(measured):
    entry = entry_of(measured[0], "deep")
    records = {record.name: record for record in entry.variants}
    assert list(records) == [
        "onnx", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static", "tensorrt-fp16",
    ]  # fmt: skip
    for name in set(records) - {"tensorrt-fp16"}:
        record = records[name]
        assert record.status in ("passed", "published"), record.error
        assert record.parity is not None and record.artifact_bytes > 0
        assert record.measured is not None and set(record.measured.latency_ms) == {1, 4}
    assert entry.original is not None and set(entry.original.latency_ms) == {1, 4}
    assert records["onnx-fp16"].artifact_bytes < records["onnx"].artifact_bytes


def test_the_best_by_the_objective_is_the_one_in_the_repository(measured):
    folder, result = measured
    entry = entry_of(folder, "deep")
    speeds = {r.name: r.measured.memory_bytes for r in entry.variants if r.measured is not None}
    assert result.variant == entry.variant == min(speeds, key=lambda name: speeds[name])
    assert {r.name for r in entry.variants if r.status == "published"} == {entry.variant}
    published = next(record for record in entry.variants if record.status == "published")
    assert entry.artifact_bytes == published.artifact_bytes
    assert entry.parity == published.parity


def test_an_engine_that_cannot_be_built_here_fails_alone_and_says_what_stays(measured):
    record = entry_of(measured[0], "deep").variants[-1]
    assert record.status == "failed"
    assert record.error is not None and "no NVIDIA GPU" in record.error
    assert any("keeps its ONNX" in reason for reason in measured[1].refused)


def test_without_an_objective_the_first_that_passes_is_published(tmp_path):
    export = {"variants": [VARIANTS[-1], VARIANTS[1], VARIANTS[0]]}
    (result,) = build_fleet(shop(tmp_path, {"m": torch_model("deep", export=export)})).results
    assert (result.status, result.variant) == ("built", "onnx-fp16"), result.error


def test_what_no_onnx_exporter_takes_becomes_torchscript_when_that_is_allowed(tmp_path):
    alone = torch_model("singular_values")
    (result,) = build_fleet(shop(tmp_path, {"m": alone})).results
    assert "fallbacks" in str(result.error)
    export = {"fallbacks": ["onnx_torchscript", "pytorch"]}
    model = torch_model("singular_values", export=export)
    (result,) = build_fleet(shop(tmp_path, {"m": model}, proof=True)).results
    assert (result.status, result.variant) == ("built", "pytorch"), result.error
    assert read_config(tmp_path / "repository", "m").backend == "pytorch"
    entry = entry_of(tmp_path, "m")
    assert [record.status for record in entry.variants] == ["failed", "failed", "published"]
    assert entry.proof is not None and entry.proof.worst is not None and entry.proof.worst < 1e-5


def test_when_all_exporters_fail_each_says_why(tmp_path):
    model = torch_model("branching", export={"fallbacks": ["onnx_torchscript"]})
    (result,) = build_fleet(shop(tmp_path, {"m": model})).results
    text = str(result.error)
    assert "branches on values" in text and "onnx_torchscript: m: " in text


def test_a_wrong_export_leaves_what_is_published(tmp_path):
    switch = tmp_path / "switch"
    model = torch_model("spoilt_at", source={"arguments": {"path": str(switch)}})
    build_fleet(shop(tmp_path, {"m": model}))
    before = files(tmp_path / "repository")
    switch.touch()
    (result,) = build_fleet(shop(tmp_path, {"m": model}, force=True)).results
    assert result.status == "failed" and "output 'y' differs" in str(result.error)
    assert files(tmp_path / "repository") == before


def test_a_figure_below_what_is_asked_publishes_nothing(tmp_path):
    (tmp_path / "judges.py").write_text(
        "import numpy as np\n\n\n"
        "def rows_answered(predict):\n"
        "    return float(len(predict({'x': np.ones((8, 4), np.float32)})['y']))\n"
    )
    metric = {"metric": "judges:rows_answered", "python_path": str(tmp_path), "minimum": 8}
    models = {"m": torch_model("deep", export={"metric": metric})}
    (result,) = build_fleet(shop(tmp_path, models)).results
    assert result.status == "built", result.error
    entry = entry_of(tmp_path, "m")
    assert (entry.original_metric, entry.variants[0].metric) == (8.0, 8.0)
    metric["minimum"] = 9
    (result,) = build_fleet(shop(tmp_path, models)).results
    assert result.status == "failed" and "rows_answered" in str(result.error)
    assert entry_of(tmp_path, "m") == entry
