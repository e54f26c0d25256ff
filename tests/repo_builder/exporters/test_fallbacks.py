"""The exporters that are tried when the first one fails, on models that people bring."""

from __future__ import annotations

import pytest

from repo_builder.exporters.onnx_torchscript import OnnxTorchScriptExporter
from repo_builder.exporters.pytorch import PytorchExporter, PytorchRunner
from repo_builder.judging.runners import OnnxRunner
from repo_builder.sources.base import Checkpoint, SourceContext
from repo_builder.sources.huggingface import HuggingFaceSource
from tests.repo_builder.architectures import ARCHITECTURES
from tests.repo_builder.builders import fleet
from tests.repo_builder.exporters.modules import export, prove

pytestmark = pytest.mark.build


def load(name: str, folder) -> Checkpoint:
    spec = fleet({name: ARCHITECTURES[name]}).models[name].source
    return HuggingFaceSource().load(spec, SourceContext(name, folder, folder / "repository"), None)


@pytest.mark.parametrize("name", ["bert_embedding", "clip_image", "llama_with_past", "t5"])
@pytest.mark.parametrize(
    ("exporter", "runner"),
    [(OnnxTorchScriptExporter, OnnxRunner), (PytorchExporter, PytorchRunner)],
    ids=["onnx_torchscript", "pytorch"],
)
def test_a_transformer_computes_the_same_and_batches(tmp_path, name, exporter, runner):
    checkpoint = load(name, tmp_path)
    path = export(exporter, tmp_path, checkpoint)
    assert exporter().signature("m", path, checkpoint).batchable
    assert prove(exporter, runner, tmp_path, checkpoint, path).worst < 1e-5
