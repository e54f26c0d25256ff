"""docs/tensorrt.md, where it can be held against the code."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from ruamel.yaml import YAML

from tests.repo_builder.builders import fleet
from tritonfleet.server.releases import RELEASES, TRTLLM_IMAGES, needed_driver
from tritonfleet.spec.export import TensorRTVariant

PAGE = (Path(__file__).parents[4] / "docs" / "tensorrt.md").read_text()


def test_its_fleet_files_are_valid():
    engine, accelerator = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    entry = YAML(typ="safe").load(engine)["models"]["minilm"]
    entry |= YAML(typ="safe").load(textwrap.dedent(accelerator))
    spec = fleet({"minilm": entry}).models["minilm"]
    assert isinstance(spec.export.variants[1], TensorRTVariant)
    assert spec.serving.optimization.tensorrt.cache == "/var/cache/tritonfleet/minilm"


def test_its_table_of_images_is_the_code_s():
    told = {}
    for releases, version in re.findall(r"^\| (2[\d., to]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE):
        first, last = (re.split(", | to ", releases) * 2)[:2]
        told |= {name: version for name in TRTLLM_IMAGES if first <= name <= max(first, last)}
    assert told == TRTLLM_IMAGES


def test_its_table_of_releases_is_the_code_s():
    told = re.findall(r"^\| (2\d\.\d\d(?: \| [\d.?]+){7}) \|$", PAGE, re.MULTILINE)
    assert told == [
        " | ".join(str(cell or "?") for cell in (*row[:3], needed_driver(row.name), *row[4:]))
        for row in RELEASES.values()
    ]
