"""The wheel carries what a user without the checkout needs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_only_our_three_packages_are_installed(names):
    folders = {name.split("/")[0] for name in names}
    ours = {folder for folder in folders if not folder.endswith(".dist-info")}
    assert ours == {"tritonfleet", "repo_builder", "fleet_perf"}


def test_every_module_and_template_is_in_the_wheel(names):
    for package, place in (
        ("tritonfleet", ROOT),
        ("repo_builder", ROOT),
        ("fleet_perf", ROOT / "perf"),
    ):
        for path in (place / package).rglob("*.py"):
            assert str(path.relative_to(place)) in names
    for template in (ROOT / "triton_configs" / "templates").glob("*.j2"):
        assert f"repo_builder/templates/{template.name}" in names


def test_the_serving_side_imports_neither_torch_nor_transformers():
    code = (
        "import sys, tritonfleet.app, tritonfleet.cli, tritonfleet.commands;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'onnx')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
