from __future__ import annotations

import json
from pathlib import Path

import pytest

from repo_builder.exporters.onnx import OnnxExporter
from repo_builder.parity import check_parity
from repo_builder.signature import Tensor, read_signature
from repo_builder.sources.base import SourceContext
from repo_builder.sources.huggingface import HuggingFaceSource, _pooling_modes
from tritonfleet.errors import ExportFailed, SourceUnavailable
from tritonfleet.spec.fleet import ExportSpec
from tritonfleet.spec.fleet import HuggingFaceSource as HuggingFaceSpec

pytestmark = pytest.mark.build

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 32}  # fmt: skip
BERT = {"model_type": "bert", "vocab_size": 50, "max_position_embeddings": 24, **SMALL}
VIT = {"model_type": "vit", "image_size": 8, "patch_size": 4, "num_channels": 1, **SMALL}
GPT2 = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2,
        "n_positions": 24}  # fmt: skip


@pytest.fixture
def context(tmp_path):
    return SourceContext("m", tmp_path, tmp_path / "repository")


def spec(task: str, **fields) -> HuggingFaceSpec:
    return HuggingFaceSpec(kind="huggingface", task=task, **fields)


def load(made: HuggingFaceSpec, context: SourceContext):
    source = HuggingFaceSource()
    return source.load(made, context, source.fetch(made, context))


@pytest.mark.parametrize(
    ("task", "weights", "output"),
    [
        ("sentence-embedding", BERT, Tensor("embedding", "FP32", ("batch", 16))),
        ("feature-extraction", BERT,
         Tensor("last_hidden_state", "FP32", ("batch", "sequence", 16))),
        ("sequence-classification", BERT, Tensor("logits", "FP32", ("batch", 2))),
        ("text-generation", GPT2, Tensor("logits", "FP32", ("batch", "sequence", 50))),
        ("image-classification", VIT, Tensor("logits", "FP32", ("batch", 2))),
        ("feature-extraction", VIT, Tensor("last_hidden_state", "FP32", ("batch", 5, 16))),
    ],
)  # fmt: skip
def test_every_task_becomes_a_batchable_artifact_that_computes_the_same(
    context, tmp_path, task, weights, output
):
    checkpoint = load(spec(task, random_weights=weights), context)
    export = ExportSpec()
    path = OnnxExporter().export("m", checkpoint, export, tmp_path)
    signature = read_signature("m", path)
    assert signature.outputs == (output,)
    assert signature.batchable
    assert check_parity("m", checkpoint, path, signature, export.parity).worst < 1e-5


def test_random_weights_follow_their_seed(context):
    def weights(seed):
        made = load(spec("feature-extraction", random_weights=BERT, seed=seed), context)
        return next(made.module.parameters()).tolist()

    assert weights(1) == weights(1) != weights(2)


def test_lengths_that_are_tried_stay_within_the_model_s(context):
    assert load(spec("feature-extraction", random_weights=BERT), context).longest == 24
    made = spec("feature-extraction", random_weights=BERT, max_length=9)
    assert load(made, context).longest == 9


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"vocab_size": 5}, "names no architecture"),
        ({"model_type": "brt"}, "no model can be made from random_weights"),
        ({**BERT, "num_attention_heads": 3}, "no model can be made from random_weights"),
    ],
)
def test_a_configuration_that_makes_no_model_is_told(context, weights, text):
    with pytest.raises(SourceUnavailable, match=text):
        load(spec("feature-extraction", random_weights=weights), context)


def test_a_kind_of_model_without_a_task_is_refused(context):
    weights = {"model_type": "wav2vec2", **SMALL, "conv_dim": [8], "conv_stride": [2],
               "conv_kernel": [3], "num_feat_extract_layers": 1,
               "num_conv_pos_embedding_groups": 2}  # fmt: skip
    with pytest.raises(ExportFailed, match="'input_values' have no task here"):
        load(spec("feature-extraction", random_weights=weights), context)


@pytest.fixture
def saved(tmp_path):
    """Writes a small BERT into ``<tmp_path>/model``, made by one of Transformers' classes."""

    def save(kind: str = "BertModel", **config) -> Path:
        import transformers

        fields = {key: value for key, value in BERT.items() if key != "model_type"}
        configuration = transformers.BertConfig(**{**fields, **config})
        folder = tmp_path / "model"
        getattr(transformers, kind)(configuration).save_pretrained(folder)
        return folder

    return save


def test_a_local_folder_is_read_without_the_hub(context, saved):
    saved()
    checkpoint = load(spec("sentence-embedding", model="model"), context)
    assert list(checkpoint.inputs) == ["input_ids", "attention_mask"]
    assert checkpoint.inputs["input_ids"].high == 50


def test_its_state_is_the_folder_s_digest(context, saved):
    saved()
    state = HuggingFaceSource().state(
        spec("sentence-embedding", model="model"), context, lambda path: path.name
    )
    assert state == {"digest": "model"}


def test_class_names_come_along_unless_they_are_only_numbers(context, saved):
    saved("BertForSequenceClassification", id2label={0: "no", 1: "yes"})
    made = spec("sequence-classification", model="model")
    assert load(made, context).labels == {"logits": ("no", "yes")}
    numbered = spec("sequence-classification", random_weights=BERT)
    assert load(numbered, context).labels == {}


def test_a_checkpoint_without_the_task_s_head_is_refused_rather_than_filled_at_random(
    context, saved
):
    saved("BertModel")
    with pytest.raises(SourceUnavailable, match=r"no weights for classifier.*not trained for task"):
        load(spec("sequence-classification", model="model"), context)


def test_a_pooler_that_is_never_used_may_be_missing(context, saved):
    saved("BertForMaskedLM")
    assert load(spec("sentence-embedding", model="model"), context)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ["mean"]),
        ({"pooling_mode_cls_token": True}, ["cls"]),
        ({"pooling_mode": "lasttoken"}, ["lasttoken"]),
        ({"pooling_mode": ["mean", "max"]}, ["mean", "max"]),
        ({"word_embedding_dimension": 3}, []),
    ],
)
def test_both_forms_of_the_pooling_file_are_understood(pooling, expected):
    assert _pooling_modes(pooling) == expected


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_known_poolings_are_used(context, saved, mode):
    write_pooling(saved(), {"pooling_mode": mode})
    assert load(spec("sentence-embedding", model="model"), context).module.pooling == mode


@pytest.mark.parametrize("mode", ["max", ["mean", "cls"], []])
def test_other_poolings_are_refused_rather_than_guessed(context, saved, mode):
    write_pooling(saved(), {"pooling_mode": mode})
    with pytest.raises(SourceUnavailable, match="known are mean, cls"):
        load(spec("sentence-embedding", model="model"), context)


def write_pooling(folder: Path, content) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(content))


def test_damaged_weights_are_told(context, saved):
    (saved() / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(SourceUnavailable, match="cannot be loaded"):
        load(spec("sentence-embedding", model="model"), context)


def test_pickled_weights_are_not_read(context, saved):
    folder = saved()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SourceUnavailable, match=r"no \*\.safetensors.*can run code"):
        load(spec("sentence-embedding", model="model"), context)


def test_a_folder_that_is_no_model_is_told(context, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.safetensors").write_bytes(b"")
    with pytest.raises(SourceUnavailable, match="cannot be loaded"):
        load(spec("sentence-embedding", model="model"), context)
