from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from repo_builder.signature import Tensor
from repo_builder.sources.base import SourceContext
from repo_builder.sources.huggingface import HuggingFaceSource
from repo_builder.sources.task_detection import detect_task
from repo_builder.sources.tasks import TASKS, pooling_modes
from tests.repo_builder.architectures import ARCHITECTURES
from tests.repo_builder.sources.comparing import exported, loaded, worst_differences
from tritonfleet.errors import ExportFailed, SourceUnavailable
from tritonfleet.spec.sources import HuggingFaceSource as HuggingFaceSpec
from tritonfleet.spec.sources import Task

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


def spec(task: str | None, **fields) -> HuggingFaceSpec:
    return HuggingFaceSpec(kind="huggingface", task=task, **fields)


def load(made: HuggingFaceSpec, context: SourceContext):
    return loaded(HuggingFaceSource(), made, context)


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
    path, signature = exported(checkpoint, tmp_path)
    assert signature.outputs == (output,)
    assert signature.batchable
    assert max(worst_differences(checkpoint, path).values()) < 1e-5


def test_random_weights_follow_their_seed(context):
    def weights(seed):
        made = load(spec("feature-extraction", random_weights=BERT, seed=seed), context)
        return next(made.module.parameters()).tolist()

    assert weights(1) == weights(1) != weights(2)


def test_lengths_that_are_tried_stay_within_the_model_s(context):
    assert load(spec("feature-extraction", random_weights=BERT), context).longest == 24
    made = spec("feature-extraction", random_weights=BERT, max_length=9)
    assert load(made, context).longest == 9
    made = spec("feature-extraction", random_weights=BERT, max_length=99)
    assert load(made, context).longest == 24


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
    with pytest.raises(ExportFailed, match="'input_values' have no task 'feature-extraction' here"):
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
    assert pooling_modes(pooling) == expected


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_known_poolings_are_used(context, saved, mode):
    write_pooling(saved(), {"pooling_mode": mode})
    assert load(spec("sentence-embedding", model="model"), context).module.pooling == mode


@pytest.mark.parametrize("mode", ["max", ["mean", "cls"], []])
def test_other_poolings_are_refused_rather_than_guessed(context, saved, mode):
    write_pooling(saved(), {"pooling_mode": mode})
    with pytest.raises(SourceUnavailable, match="known are mean, cls"):
        load(spec("sentence-embedding", model="model"), context)


@pytest.mark.parametrize("last", ["Dense", "LayerNorm"])
def test_a_step_after_the_pooling_is_refused_rather_than_left_out(context, saved, last):
    kinds = ["Transformer", "Pooling", "Normalize", last]
    modules = [{"idx": n, "type": f"sentence_transformers.models.{k}"} for n, k in enumerate(kinds)]
    (saved() / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(SourceUnavailable, match=f"passes through {last}"):
        load(spec(None, model="model"), context)
    (context.base / "model" / "modules.json").write_text(json.dumps(modules[:3]))
    assert load(spec(None, model="model"), context).outputs == ("embedding",)


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


def written(folder: Path, config: dict) -> Path:
    """A checkpoint's folder of which only the configuration matters."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("kind", "architecture", "task"),
    [
        ("bert", "BertForSequenceClassification", "sequence-classification"),
        ("bert", "BertForTokenClassification", "token-classification"),
        ("bert", "BertForQuestionAnswering", "question-answering"),
        ("bert", "BertForMaskedLM", "feature-extraction"),
        ("bert", "BertModel", "feature-extraction"),
        ("vit", "ViTForImageClassification", "image-classification"),
        ("vit", "ViTModel", "feature-extraction"),
        ("gpt2", "GPT2LMHeadModel", "text-generation-with-past"),
        ("llama", "LlamaForCausalLM", "text-generation-with-past"),
        ("t5", "T5ForConditionalGeneration", "text2text-generation"),
        ("t5", "T5EncoderModel", "text2text-encoder"),
        ("bart", "BartForConditionalGeneration", "text2text-generation"),
        ("whisper", "WhisperForConditionalGeneration", "speech-encoder"),
        ("clip", "CLIPModel", "dual-encoder"),
        ("siglip", "SiglipModel", "dual-encoder"),
    ],
)
def test_the_task_is_told_from_the_checkpoint(tmp_path, kind, architecture, task):
    folder = written(tmp_path / "model", {"model_type": kind, "architectures": [architecture]})
    assert detect_task("m", folder) == task
    assert task in TASKS


@pytest.mark.parametrize("sign", ["modules.json", "1_Pooling/config.json"])
def test_a_folder_of_sentence_transformers_embeds_sentences(tmp_path, sign):
    folder = written(tmp_path / "model", {"model_type": "bert", "architectures": ["BertModel"]})
    (folder / sign).parent.mkdir(exist_ok=True)
    (folder / sign).write_text("[]")
    assert detect_task("m", folder) == "sentence-embedding"


def test_code_of_its_own_is_told_by_the_names_of_its_classes(tmp_path):
    config = {"model_type": "mine", "architectures": ["MineForCausalLM"]}
    folder = written(tmp_path / "model", config)
    with pytest.raises(SourceUnavailable, match="cannot be told"):
        detect_task("m", folder)
    written(folder, {**config, "auto_map": {"AutoModelForCausalLM": "mine.MineForCausalLM"}})
    assert detect_task("m", folder) == "text-generation-with-past"


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"model_type": "bert"}, "names no architecture"),
        ({"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]},
         "names LlavaForConditionalGeneration"),
        ({"model_type": "bert", "architectures": ["BertForNextSentencePrediction"]}, "names Bert"),
    ],
)  # fmt: skip
def test_an_untold_task_is_asked_for_with_all_there_are(tmp_path, config, text):
    with pytest.raises(SourceUnavailable, match=f"{text}.*Name it with 'task': .*speech-encoder"):
        detect_task("m", written(tmp_path / "model", config))


def test_random_weights_do_not_tell_their_task(context):
    with pytest.raises(SourceUnavailable, match=r"what they are for.*Name it with 'task'"):
        load(spec(None, random_weights=BERT), context)


def test_every_task_of_the_fleet_file_has_a_form():
    assert set(get_args(Task)) == set(TASKS)


def test_a_told_task_is_kept_for_the_manifest(context, saved):
    saved("BertForTokenClassification", id2label={0: "word", 1: "name"})
    made = load(spec(None, model="model"), context)
    assert made.facts["task"] == "token-classification"
    assert made.facts["labels"] == ["word", "name"] and made.labels == {}


def test_a_task_the_architecture_has_no_form_for_is_told(context, saved):
    saved()
    with pytest.raises(SourceUnavailable, match="no form for task 'image-classification'"):
        load(spec("image-classification", model="model"), context)


def test_two_towers_are_not_taken_for_one(context):
    with pytest.raises(ExportFailed, match="Use task 'dual-encoder'"):
        load(spec("feature-extraction", random_weights=ARCHITECTURES["clip"]["source"]
                  ["random_weights"]), context)  # fmt: skip


def test_one_tower_is_not_taken_for_two(context):
    with pytest.raises(ExportFailed, match="no dual encoder"):
        load(spec("dual-encoder-text", random_weights=BERT), context)


FOREIGN_CODE = """
from transformers import BertConfig, BertModel

open({marker!r}, "w").close()

class MineConfig(BertConfig):
    model_type = "mine"

class MineModel(BertModel):
    config_class = MineConfig
"""


@pytest.fixture
def foreign(saved, tmp_path, monkeypatch):
    """A checkpoint that brings its own code; the file that appears when the code has run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    folder, marker = saved(), tmp_path / "it_ran"
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "mine.MineConfig", "AutoModel": "mine.MineModel"}
    config |= {"model_type": "mine", "architectures": ["MineModel"], "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(FOREIGN_CODE.format(marker=str(marker)))
    return marker


def test_foreign_code_is_not_run_unless_the_fleet_file_says_so(context, foreign):
    with pytest.raises(SourceUnavailable, match=r"code of its own.*trust_remote_code: true"):
        load(spec("feature-extraction", model="model"), context)
    assert not foreign.exists()


def test_foreign_code_runs_when_the_fleet_file_says_so(context, foreign):
    made = spec("feature-extraction", model="model", trust_remote_code=True)
    assert load(made, context).outputs == ("last_hidden_state",)
    assert foreign.exists()


@pytest.mark.parametrize("keep", [0, 5, 100, 2000])
def test_a_truncated_file_of_weights_is_told(context, saved, keep):
    file = saved() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(SourceUnavailable, match=r"cannot be loaded: .*Check that the files"):
        load(spec("feature-extraction", model="model"), context)


@pytest.mark.parametrize("task", [None, "feature-extraction"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "bert", "hidden_size": "x"}'])
def test_a_broken_configuration_is_told(context, saved, content, task):
    (saved() / "config.json").write_text(content)
    with pytest.raises(SourceUnavailable):
        load(spec(task, model="model"), context)


def test_weights_of_other_sizes_are_told(context, saved):
    folder = saved()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 70}))
    with pytest.raises(SourceUnavailable, match="cannot be loaded"):
        load(spec("feature-extraction", model="model"), context)


def test_a_hub_model_that_is_not_here_is_told_when_offline(context, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        SourceUnavailable, match="not on this machine and the hub cannot be reached"
    ):
        load(spec(None, model="nobody/nothing-of-this-name"), context)


def test_a_model_that_keeps_states_instead_of_keys_and_values_is_told(context):
    weights = {"model_type": "mamba", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1,
               "state_size": 4}  # fmt: skip
    with pytest.raises(ExportFailed, match=r"no keys and values.*Use task 'text-generation'"):
        load(spec("text-generation-with-past", random_weights=weights), context)
