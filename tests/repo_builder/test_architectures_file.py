"""The fleet file that shows every kind of Transformers model."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from tritonfleet.spec.load import load_fleet
from tritonfleet.spec.sources import HuggingFaceSource, Task

FILE = Path(__file__).parents[2] / "triton_configs" / "architectures.yaml"


def test_it_is_valid_and_has_a_model_for_every_task():
    models = load_fleet(FILE).models.values()
    sources = [model.source for model in models if isinstance(model.source, HuggingFaceSource)]
    assert len(sources) == len(models)
    assert {source.task for source in sources} == set(get_args(Task))


def test_nothing_of_it_is_downloaded():
    assert all(model.source.model is None for model in load_fleet(FILE).models.values())
