"""Greedy generation through any way of running a model, to see whether two of them agree.

Differences in scores matter to nobody as long as the same tokens come out; and once one token
differs, all that follow may. So candidates are judged by the tokens they generate after the same
prompts, padded on the left as a batch of them would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from repo_builder.signature import BATCH, Shape
from repo_builder.sources.base import Predict

Array: TypeAlias = "np.ndarray[Any, Any]"
NEW_TOKENS = 16
_LENGTHS = (12, 9, 5)


@dataclass(frozen=True, slots=True)
class Prompts:
    """Token ids and their mask, one prompt a row, padded on the left."""

    ids: Array
    mask: Array


def prompts(vocabulary: int, longest: int | None) -> Prompts:
    """The same prompts each time; they leave room for the new tokens."""
    room = max((longest or 1 << 30) - NEW_TOKENS, 1)
    lengths = np.array([min(length, room) for length in _LENGTHS])
    width = int(lengths.max())
    ids = np.random.default_rng(0).integers(0, vocabulary, size=(len(lengths), width))
    mask = np.arange(width)[None, :] >= width - lengths[:, None]
    return Prompts(ids.astype(np.int64), mask.astype(np.int64))


def greedy(predict: Predict, given: Prompts, new_tokens: int = NEW_TOKENS) -> Array:
    """The new tokens of a model that reads the whole text for each of them."""
    ids, mask = given.ids, given.mask
    for _ in range(new_tokens):
        logits = predict({"input_ids": ids, "attention_mask": mask})["logits"]
        ids = np.concatenate([ids, _best(logits)], axis=1)
        mask = _one_more(mask)
    return ids[:, given.ids.shape[1] :]


def greedy_with_past(
    predict: Predict, given: Prompts, past: Mapping[str, Shape], new_tokens: int = NEW_TOKENS
) -> Array:
    """The new tokens of a model that keeps what it has read; it begins with an empty cache."""
    tokens, mask, found = given.ids, given.mask, []
    cache = {name: _empty(shape, len(given.ids)) for name, shape in past.items()}
    for _ in range(new_tokens):
        answer = predict({"input_ids": tokens, "attention_mask": mask, **cache})
        tokens = _best(answer["logits"])
        found.append(tokens)
        mask = _one_more(mask)
        cache = {name: answer[name.replace("past_key_values", "present")] for name in cache}
    return np.concatenate(found, axis=1)


def greedy_answer(
    predict: Predict, fixed: Mapping[str, Array], start: int, new_tokens: int = NEW_TOKENS
) -> Array:
    """The answers' tokens of a sequence-to-sequence model, after the one they all begin with."""
    rows = len(next(iter(fixed.values())))
    ids = np.full((rows, 1), start, dtype=np.int64)
    for _ in range(new_tokens):
        logits = predict({**fixed, "decoder_input_ids": ids})["logits"]
        ids = np.concatenate([ids, _best(logits)], axis=1)
    return ids[:, 1:]


def _best(logits: Array) -> Array:
    return np.asarray(logits[:, -1].argmax(-1)[:, None]).astype(np.int64)


def _one_more(mask: Array) -> Array:
    return np.concatenate([mask, np.ones((len(mask), 1), dtype=mask.dtype)], axis=1)


def _empty(shape: Shape, rows: int) -> Array:
    """A cache of nothing: the named dimension besides the batch is its length."""
    sizes = [rows if size == BATCH else size if isinstance(size, int) else 0 for size in shape]
    return np.zeros(sizes, dtype=np.float32)
