"""What a stamp tells of an engine built here."""

from __future__ import annotations

import json

from repo_builder.variants.tensorrt.machine import Gpu, Machine
from repo_builder.variants.tensorrt.stamp import stamp
from tritonfleet.server.engines import read_stamp, write_stamp
from tritonfleet.spec.export import TensorRTVariant

PROFILES = ({"x": ((1, 4), (8, 4), (8, 4))},)
MACHINE = Machine(Gpu("NVIDIA A10", "8.6", "550.54"), "10.13.3.9", platform="linux-x86_64")


def engine(**fields):
    variant = TensorRTVariant.model_validate({"format": "tensorrt", **fields})
    return stamp(variant, MACHINE, PROFILES)


def test_a_stamp_is_read_as_it_was_written(tmp_path):
    made = engine(precision="fp16", workspace="1GiB", optimization_level=4)
    write_stamp(tmp_path, made)
    assert read_stamp(tmp_path) == made


def test_its_facts_are_plain_json():
    facts = engine(workspace="1GiB").facts()
    assert facts == json.loads(json.dumps(facts))
    assert (facts["tensorrt"], facts["gpu"], facts["driver"]) == (
        "10.13.3.9", "NVIDIA A10", "550.54"
    )  # fmt: skip
    assert facts["workspace_bytes"] == 1 << 30


def test_compatibility_that_the_variant_asks_for_is_in_it():
    made = engine(version_compatible=True, hardware_compatibility="ampere_plus")
    assert made.version_compatible and made.hardware_compatibility == "ampere_plus"
