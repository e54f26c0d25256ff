"""Every architecture of the table, exported for real and held against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

from repo_builder.judging.parity import cases, original
from repo_builder.judging.runners import OnnxRunner
from repo_builder.sources.base import Checkpoint, SourceContext
from repo_builder.sources.generation import NEW_TOKENS, prompts
from repo_builder.sources.huggingface import HuggingFaceSource
from tests.repo_builder.architectures import ARCHITECTURES, GENERATING
from tests.repo_builder.builders import fleet
from tests.repo_builder.sources.comparing import exported, worst_differences
from tritonfleet.spec.export import ParitySpec

pytestmark = pytest.mark.build

JOINT = ("clip",)
"""Texts and images of one request need not be as many, so requests cannot share a batch."""


def load(name: str, folder) -> Checkpoint:
    spec = fleet({name: ARCHITECTURES[name]}).models[name].source
    context = SourceContext(name, folder, folder / "repository")
    return HuggingFaceSource().load(spec, context, None)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_computes_the_same_at_every_size_and_generates_the_same(tmp_path, name):
    checkpoint = load(name, tmp_path)
    path, signature = exported(checkpoint, tmp_path)
    worst = worst_differences(checkpoint, path)
    assert len(worst) >= 2
    assert max(worst.values()) < 1e-5, worst
    assert signature.batchable is (name not in JOINT)
    assert (checkpoint.generate is not None) is (name in GENERATING)
    if checkpoint.generate is not None:
        tokens = checkpoint.generate(OnnxRunner(name, path, signature).run)
        assert np.array_equal(tokens, checkpoint.generate(original(name, checkpoint)))


@pytest.mark.parametrize("name", GENERATING)
def test_the_greedy_tokens_are_those_of_the_library_s_own_generate(tmp_path, name):
    import torch

    checkpoint = load(name, tmp_path)
    model = checkpoint.module.model
    model.generation_config.eos_token_id = None
    given = prompts(96, checkpoint.longest)
    assert (given.mask[:, 0] == 0).any(), "some prompts must be padded"
    answer = model.generate(
        input_ids=torch.from_numpy(given.ids),
        attention_mask=torch.from_numpy(given.mask),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        use_cache=True,
    )
    tokens = checkpoint.generate(original(name, checkpoint))
    assert tokens.shape == (len(given.ids), NEW_TOKENS)
    assert np.array_equal(tokens, answer[:, -NEW_TOKENS:].numpy())


@pytest.mark.parametrize("name", ["gpt2_with_past", "llama_with_past"])
def test_reading_on_from_a_cache_gives_what_reading_it_all_gives(tmp_path, name):
    checkpoint = load(name, tmp_path)
    ask = original(name, checkpoint)
    ids = np.random.default_rng(3).integers(0, 96, size=(2, 11))
    empty = checkpoint.sample(
        {"batch": 2, "sequence": 1, "past_sequence": 0}, np.random.default_rng(0)
    )
    cache = {key: value for key, value in empty.items() if key.startswith("past_key_values")}
    whole = ask({"input_ids": ids, "attention_mask": np.ones_like(ids), **cache})
    first = ask({"input_ids": ids[:, :6], "attention_mask": np.ones_like(ids[:, :6]), **cache})
    cache = {key: first[key.replace("past_key_values", "present")] for key in cache}
    rest = ask({"input_ids": ids[:, 6:], "attention_mask": np.ones_like(ids), **cache})
    np.testing.assert_allclose(rest["logits"], whole["logits"][:, 6:], atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2_with_past", "llama_with_past"])
def test_caches_of_several_lengths_are_tried_and_none_too_long(tmp_path, name):
    checkpoint = load(name, tmp_path)
    tried = {case.sizes["past_sequence"] for case in cases(checkpoint, ParitySpec())}
    assert tried == {0, 5, 37}
    long = {"batch": 2, "sequence": 60, "past_sequence": 60}
    inputs = checkpoint.sample(long, np.random.default_rng(0))
    assert inputs["attention_mask"].shape == (2, 96)
    assert inputs["past_key_values.0.key"].shape[2] == 36


def test_the_padding_s_own_position_is_no_place_for_a_token(tmp_path):
    assert load("roberta", tmp_path).longest == 62
    assert load("bert_features", tmp_path).longest == 64


@pytest.mark.parametrize("name", ["clip_text", "clip_image", "clip"])
def test_embeddings_of_both_sides_have_length_one(tmp_path, name):
    checkpoint = load(name, tmp_path)
    case = next(iter(cases(checkpoint, ParitySpec())))
    answer = original(name, checkpoint)(checkpoint.sample(case.sizes, np.random.default_rng(0)))
    for value in answer.values():
        np.testing.assert_allclose(np.linalg.norm(value, axis=-1), 1, atol=1e-5)
