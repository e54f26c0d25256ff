"""Candidates of a real module: what exporters and variants make of it, and how they fail."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from repo_builder import candidates
from repo_builder.candidates import Trial, export_candidate, order_for, variant_candidate
from repo_builder.exporters.onnx import OnnxExporter
from repo_builder.judging.parity import record_reference
from repo_builder.sources.base import Checkpoint, InputField
from repo_builder.variants.onnx import OnnxVariantMaker
from tritonfleet.plugins import lookup
from tritonfleet.spec.export import ExportSpec, MetricSpec, OnnxVariant

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.build


class Spoilt(OnnxExporter):
    """Gets one weight wrong."""

    def export(self, model, checkpoint, spec, folder):
        with torch.no_grad():
            checkpoint.module.weight[0, 0] += 1
        return super().export(model, checkpoint, spec, folder)


class Dying(OnnxExporter):
    """Is killed by the kernel, as when memory runs out."""

    def export(self, model, checkpoint, spec, folder):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def plugins(monkeypatch):
    """More exporters than are installed."""
    more = {("exporters", "spoilt"): Spoilt, ("exporters", "dying"): Dying}
    monkeypatch.setattr(
        candidates, "lookup", lambda group, name: more.get((group, name)) or lookup(group, name)
    )


@pytest.fixture
def trial(tmp_path, plugins):
    torch.manual_seed(0)
    module = torch.nn.Linear(16, 8).eval()
    checkpoint = Checkpoint(module, {"x": InputField("FP32", ("batch", 16))}, ("y",))
    spec = ExportSpec()
    reference = record_reference("m", checkpoint, spec.parity, tmp_path / "reference")
    return Trial("m", checkpoint, spec, reference)


def test_what_passes_has_files_a_signature_and_figures(trial, tmp_path):
    found = export_candidate(trial, "onnx", tmp_path / "onnx")
    assert found.passed and found.record.status == "passed"
    assert found.artifact == tmp_path / "onnx" / "model.onnx" and found.artifact.exists()
    assert found.signature is not None and found.signature.batchable
    assert found.record.parity is not None and found.record.parity.worst < 1e-5
    assert found.record.artifact_bytes == found.artifact.stat().st_size


def test_a_wrong_weight_is_found_out(trial, tmp_path):
    found = export_candidate(trial, "spoilt", tmp_path / "spoilt")
    assert not found.passed and found.record.status == "failed"
    assert "output 'y' differs" in str(found.record.error)


def test_what_one_exporter_spoils_the_next_finds_whole(trial, tmp_path):
    export_candidate(trial, "spoilt", tmp_path / "spoilt")
    assert export_candidate(trial, "onnx", tmp_path / "onnx").passed


def test_an_exporter_that_is_killed_fails_alone_and_says_why(trial, tmp_path):
    found = export_candidate(trial, "dying", tmp_path / "dying")
    assert "the process of 'dying' was killed by SIGKILL" in str(found.error)
    assert "memory" in str(found.error)


def made(trial, tmp_path, variant):
    base = export_candidate(trial, "onnx", tmp_path / "base")
    order = order_for(trial, variant, base, tmp_path / "variant", tmp_path / "cache", (), 8)
    return variant_candidate(trial, order, base)


def test_a_variant_goes_through_the_gate_of_its_precision(trial, tmp_path):
    found = made(trial, tmp_path, OnnxVariant(format="onnx", precision="fp16"))
    assert found.passed, found.error
    assert (found.record.name, found.record.precision) == ("onnx-fp16", "fp16")
    assert found.record.parity is not None and 0 < found.record.parity.worst < 1e-2


def test_a_variant_outside_its_gate_is_dropped(trial, tmp_path, monkeypatch):
    class Wrong(OnnxVariantMaker):
        def make(self, order):
            result = super().make(order)
            spoil(result.artifact)
            return result

    monkeypatch.setattr(candidates, "lookup", lambda group, name: (
        Wrong if group == "variants" else lookup(group, name)
    ))  # fmt: skip
    found = made(trial, tmp_path, OnnxVariant(format="onnx", precision="fp16"))
    assert not found.passed and "output 'y'" in str(found.error)


def spoil(path):
    import numpy as np
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path)
    weight = max(graph.graph.initializer, key=lambda each: len(each.raw_data))
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += np.asarray(5, values.dtype)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(graph, path)


def test_a_variant_of_what_is_no_onnx_is_refused(trial, tmp_path):
    base = export_candidate(trial, "onnx", tmp_path / "base")
    other = replace(base, record=base.record.model_copy(update={"backend": "pytorch"}))
    order = order_for(
        trial, OnnxVariant(format="onnx", precision="fp16"), base, tmp_path / "v", tmp_path, (), 8
    )
    found = variant_candidate(trial, order, other)
    assert "there is no ONNX file" in str(found.error)


def test_a_metric_below_what_is_asked_drops_a_candidate(trial, tmp_path):
    spec = ExportSpec(metric=MetricSpec(metric="any:any", minimum=0.9))
    judged = replace(trial, spec=spec, metric=lambda predict: 0.5, original_metric=0.95)
    found = export_candidate(judged, "onnx", tmp_path / "onnx")
    assert not found.passed and "0.5" in str(found.error)
    good = replace(judged, metric=lambda predict: 0.93)
    assert export_candidate(good, "onnx", tmp_path / "again").record.metric == 0.93
