"""The JSON Schema that editors use is the one the types give."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from tritonfleet.spec.schema import fleet_schema, keys_at, schema_text

CONFIGS = Path(__file__).parents[2] / "triton_configs"


def test_the_published_schema_is_current():
    published = (CONFIGS / "fleet.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "run 'make schema'"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_every_fleet_of_ours_satisfies_the_schema(file):
    data = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(fleet_schema()).validate(data)


def test_the_schema_refuses_unknown_keys():
    data = {"servers": [{"name": "a", "capacity": "1GiB"}], "models": {}, "modells": {}}
    validator = jsonschema.Draft202012Validator(fleet_schema())
    messages = [error.message for error in validator.iter_errors(data)]
    assert any("modells" in message for message in messages)


def test_keys_are_known_through_unions_and_maps():
    assert "revision" in keys_at(("models", "bert", "source", "huggingface"))
    assert "max_queue_size" in keys_at(
        ("models", "bert", "serving", "dynamic_batching", "default_queue_policy")
    )
