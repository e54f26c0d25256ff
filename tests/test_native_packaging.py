"""The native backend builds into one wheel for every Python, which opens nothing it should not."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.native_backend import find_compiler

pytestmark = [
    pytest.mark.build,
    pytest.mark.skipif(find_compiler(os.environ) is None, reason="no C++ compiler"),
]

NATIVE = Path(__file__).parents[1] / "native"
PACKAGE = "tritonfleet_onnxruntime"
LIBRARY = f"{PACKAGE}/libtriton_onnxruntime.so"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", folder, NATIVE], check=True, timeout=280)
    (product,) = folder.iterdir()
    return product


@pytest.fixture(scope="module")
def library(wheel, tmp_path_factory):
    return zipfile.ZipFile(wheel).extract(LIBRARY, tmp_path_factory.mktemp("library"))


def symbols(library, which):
    command = ["nm", "--dynamic", "--format=posix", which, library]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split()[0] for line in lines if line.split()[1] != "w"}


def test_one_wheel_is_for_every_python_on_this_platform(wheel):
    distribution, _, python, abi, platform = wheel.stem.split("-")
    assert (distribution, python, abi) == (PACKAGE, "py3", "none")
    assert platform.startswith("linux_")


def test_it_holds_the_library_the_package_and_the_licence_of_what_was_compiled_in(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == {
        LIBRARY,
        f"{PACKAGE}/__init__.py",
        f"{PACKAGE}/py.typed",
    }
    assert [name for name in names if name.endswith("licenses/THIRD_PARTY.md")]


def test_others_see_the_entry_points_of_a_triton_backend_only(library):
    defined = symbols(library, "--defined-only")
    assert all(name.startswith("TRITONBACKEND_") for name in defined)
    assert {
        "TRITONBACKEND_Initialize",
        "TRITONBACKEND_ModelInitialize",
        "TRITONBACKEND_ModelInstanceInitialize",
        "TRITONBACKEND_ModelInstanceExecute",
    } <= defined


def test_all_it_lacks_is_in_tritonserver_or_in_the_systems_libraries(library):
    undefined = symbols(library, "--undefined-only")
    # What comes from the system's libraries has a version, such as malloc@GLIBC_2.2.5.
    ours = {name for name in undefined if "@" not in name}
    assert ours
    assert all(name.startswith(("TRITONBACKEND_", "TRITONSERVER_")) for name in ours)


def test_it_is_linked_to_neither_triton_nor_onnxruntime(library):
    command = ["readelf", "--dynamic", library]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    needed = [line for line in text.splitlines() if "(NEEDED)" in line]
    assert needed
    assert not [line for line in needed if "triton" in line or "onnx" in line]


def test_the_package_tells_where_the_library_lies_and_its_version(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = f"import {PACKAGE} as p; print(p.library(), p.__version__)"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert answer.stdout.split() == [str(tmp_path / LIBRARY), wheel.name.split("-")[1]]
