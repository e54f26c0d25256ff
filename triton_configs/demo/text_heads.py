"""Classifiers of short texts: a small head on the sentence embeddings of a frozen encoder.

The encoder runs eagerly and once; only the head is trained, in about a second.
"""

from __future__ import annotations

import csv
import importlib.util
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModel

from repo_builder.sources.base import TrainedModel
from repo_builder.sources.transformer_tasks import SentenceEmbedding

DATA = Path(__file__).with_name("data")
LONGEST = 64
STEPS = 300


class Head(nn.Module):
    """An embedding in, one probability for each class out."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """The probabilities."""
        return torch.softmax(self.linear(embedding), dim=-1)


def classifier(data: str, labels: list[str], encoder: str) -> TrainedModel:
    """A head trained on four fifths of ``data/<data>.tsv``, its accuracy taken on the rest."""
    rows = read_rows(DATA / f"{data}.tsv")
    unknown = sorted({label for label, _ in rows} ^ set(labels))
    if unknown:
        raise ValueError(f"labels of {data}.tsv and of the fleet file differ: {unknown}")
    random.Random(7).shuffle(rows)
    texts = embed([text for _, text in rows], package_folder(encoder))
    classes = torch.tensor([labels.index(label) for label, _ in rows])
    held_out = len(rows) // 5
    head = train(texts[held_out:], classes[held_out:], len(labels))
    with torch.no_grad():
        guesses = head(texts[:held_out]).argmax(-1)
    accuracy = (guesses == classes[:held_out]).float().mean().item()
    return TrainedModel(head, {"accuracy": accuracy}, {"embedding": texts.numpy()})


def read_rows(path: Path) -> list[tuple[str, str]]:
    """(label, text) pairs of a tab-separated file with a heading."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["label"], row["text"]) for row in rows]


def package_folder(place: str) -> Path:
    """The folder inside an installed package: 'name/path'."""
    name, _, inside = place.partition("/")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"package {name} is not installed")
    return Path(spec.submodule_search_locations[0]) / inside


def embed(texts: list[str], encoder: Path) -> torch.Tensor:
    """One embedding for each text, as the served encoder gives it."""
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=LONGEST)
    tokenizer.enable_padding()
    module = SentenceEmbedding(AutoModel.from_pretrained(encoder, local_files_only=True)).eval()
    encoded = tokenizer.encode_batch(texts)
    with torch.no_grad():
        return module(
            torch.tensor([row.ids for row in encoded]),
            torch.tensor([row.attention_mask for row in encoded]),
        )


def train(embeddings: torch.Tensor, classes: torch.Tensor, count: int) -> Head:
    """A head fitted to all rows at once."""
    torch.manual_seed(0)
    head = Head(embeddings.shape[1], count)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.05, weight_decay=0.05)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head.linear(embeddings), classes).backward()
        optimizer.step()
    return head
