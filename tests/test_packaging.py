"""The wheel carries what a user without the checkout needs, and nothing else.

The native backend is a distribution of its own: the sources of the project have it, the wheel not.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def build(kind, folder) -> Path:
    code = f"from hatchling.build import build_{kind}; build_{kind}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    (product,) = folder.iterdir()
    return product


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


def test_only_our_three_packages_are_installed(names):
    folders = {name.split("/")[0] for name in names}
    ours = {folder for folder in folders if not folder.endswith(".dist-info")}
    assert ours == {"tritonfleet", "repo_builder", "fleet_perf"}


def test_the_wheel_is_pure_python(wheel, names):
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in names if name.endswith((".so", ".cc", ".h"))]


def test_the_sources_have_all_that_the_native_backend_is_built_from(tmp_path):
    with tarfile.open(build("sdist", tmp_path)) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    native = [
        path
        for pattern in ("*.toml", "CMakeLists.txt", "*.map", "src/*", "tritonfleet_onnxruntime/*.*")
        for path in (ROOT / "native").glob(pattern)
    ]
    assert len(native) > 5
    assert {str(path.relative_to(ROOT)) for path in native} <= names


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
