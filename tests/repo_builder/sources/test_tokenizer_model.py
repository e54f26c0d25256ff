from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import repo_builder.sources

CODE = Path(repo_builder.sources.__file__).with_name("tokenizer_model.py")
WORDS = {"[UNK]": 0, "[PAD]": 1, "one": 2, "two": 3, "three": 4}


@dataclass
class Tensor:
    name: str
    values: Any

    def as_numpy(self):
        return self.values


@dataclass
class Response:
    output_tensors: list = field(default_factory=list)
    error: Any = None

    def __getitem__(self, name):
        return next(t.values for t in self.output_tensors if t.name == name)


class TritonError(Exception):
    INVALID_ARG = 1

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The published model.py, running on a stand-in for the backend's own module."""
    backend = SimpleNamespace(
        Tensor=Tensor,
        InferenceResponse=Response,
        TritonError=TritonError,
        get_input_tensor_by_name=lambda request, name: request[name],
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    version = tmp_path / "1"
    version.mkdir()
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    # What real files bring along, and what must not hold.
    tokenizer.enable_truncation(max_length=3)
    tokenizer.enable_padding(length=3, pad_id=0)
    tokenizer.save(str(version / "tokenizer.json"))
    settings = {"max_length": 8, "buckets": [2, 4, 8], "pad_id": 1}
    (version / "settings.json").write_text(json.dumps(settings))
    spec = importlib.util.spec_from_file_location("published_tokenizer", CODE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_repository": str(tmp_path), "model_version": "1"})
    return model


def request(*texts: str | bytes):
    rows = [[t if isinstance(t, bytes) else t.encode()] for t in texts]
    return {"text": Tensor("text", np.array(rows, dtype=object))}


def test_a_text_becomes_ids_and_mask_padded_to_the_next_bucket(model):
    (response,) = model.execute([request("one two three")])
    assert response["input_ids"].tolist() == [[2, 3, 4, 1]]
    assert response["attention_mask"].tolist() == [[1, 1, 1, 0]]
    assert response["input_ids"].dtype == response["attention_mask"].dtype == np.int64


@pytest.mark.parametrize(("words", "width"), [(0, 2), (1, 2), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_the_width_is_the_first_bucket_that_holds_the_text(model, words, width):
    (response,) = model.execute([request(" ".join(["one"] * words))])
    assert response["input_ids"].shape == (1, width)
    assert response["attention_mask"].sum() == words


def test_a_longer_text_is_cut_and_the_tokenizer_s_own_limit_does_not_hold(model):
    (response,) = model.execute([request("two " * 100)])
    assert response["input_ids"].tolist() == [[3] * 8]


def test_texts_of_one_request_share_the_width_of_the_longest(model):
    (response,) = model.execute([request("one", "one two three", "two")])
    assert response["input_ids"].tolist() == [[2, 1, 1, 1], [2, 3, 4, 1], [3, 1, 1, 1]]


def test_requests_of_one_batch_keep_their_own_widths(model):
    short, long = model.execute([request("one"), request("one two three one two")])
    assert short["input_ids"].shape == (1, 2)
    assert long["input_ids"].shape == (1, 8)


def test_a_text_that_is_not_utf8_fails_its_own_request_only(model):
    good, bad, also_good = model.execute([request("one"), request(b"\xff\xfe"), request("two")])
    assert good.error is None and also_good["input_ids"].tolist() == [[3, 1]]
    assert bad.error.code == TritonError.INVALID_ARG
    assert "not UTF-8" in str(bad.error)


def test_unknown_words_and_other_scripts_are_no_error(model):
    (response,) = model.execute([request("größe 東京")])
    assert response["input_ids"].tolist() == [[0, 0]]


def test_it_imports_nothing_heavy():
    """What this file imports is what a cold start waits for."""
    imported = {line.split()[1].partition(".")[0] for line in CODE.read_text().splitlines()
                if line.startswith(("import ", "from "))}  # fmt: skip
    standard = {"json", "os", "pathlib", "typing"}
    assert imported - standard == {"numpy", "tokenizers", "triton_python_backend_utils"}
