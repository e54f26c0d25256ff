"""What must be installed is named when it is not, and laid out where Triton looks when it is."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from tritonfleet.errors import LauncherUnavailable
from tritonfleet.launchers import wheel as wheel_module
from tritonfleet.launchers.native import NativeBackend
from tritonfleet.launchers.wheel import (
    Wheel,
    assemble,
    check_platform,
    find_libpython,
    find_wheel,
    server_environment,
)

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBPYTHON = f"libpython{PYTHON}.so.1.0"


@pytest.fixture
def wheel(tmp_path):
    files = {
        "tritonserver": "bin/tritonserver",
        "libraries": "libs/libb64.so",
        "python_backend": "python/libtriton_python.so",
        "stub": "stubs/triton_python_backend_stub",
        "libpython": f"conda/lib/{LIBPYTHON}",
    }
    for name in files.values():
        path = tmp_path / "wheel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "wheel/python/triton_python_backend_utils.py").write_text("")
    (tmp_path / "wheel/conda/lib/libstdc++.so.6").write_text("not the one Triton was built with")
    (tmp_path / "wheel" / files["stub"]).chmod(0o755)
    paths = {field: tmp_path / "wheel" / name for field, name in files.items()}
    paths["libraries"] = paths["libraries"].parent
    paths["python_backend"] = paths["python_backend"].parent
    return Wheel(**paths)


@pytest.fixture
def native(tmp_path):
    backend = NativeBackend(tmp_path / "libtriton_onnxruntime.so", tmp_path / "libonnxruntime.so")
    backend.library.write_text("native")
    return backend


def onnxruntime_backend(installation) -> list[str]:
    return sorted(path.name for path in (installation.backends / "onnxruntime").iterdir())


@pytest.mark.parametrize(
    ("platform", "glibc", "cause"),
    [
        ("darwin", None, "needs Linux, and this is darwin"),
        ("linux", None, "this is another C library"),
        ("linux", (2, 31), "this is glibc 2.31"),
    ],
)
def test_a_platform_that_cannot_run_it_is_named(platform, glibc, cause):
    with pytest.raises(LauncherUnavailable, match=cause):
        check_platform(platform, glibc)


def test_a_recent_linux_is_accepted():
    check_platform("linux", (2, 35))
    check_platform("linux", (3, 0))


def test_a_missing_wheel_tells_what_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(LauncherUnavailable, match=r"pip install 'tritonfleet\[embedded\]'"):
        find_wheel()


def test_a_missing_onnxruntime_tells_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LauncherUnavailable, match=r"onnxruntime is not installed\. .*embedded"):
        find_wheel()


def test_a_python_without_stub_tells_which_have_one(monkeypatch):
    monkeypatch.setattr(wheel_module, "_STUB", "stub_of_another_age")
    with pytest.raises(LauncherUnavailable, match=rf"no stub for Python {PYTHON}.*3\.1\d"):
        find_wheel()


def test_a_missing_libpython_names_file_package_and_where_it_was_sought(tmp_path):
    with pytest.raises(LauncherUnavailable) as caught:
        find_libpython((tmp_path,))
    assert LIBPYTHON in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert f"Debian and Ubuntu: libpython{PYTHON}" in str(caught.value)


def test_the_first_folder_with_libpython_wins(tmp_path):
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / LIBPYTHON).touch()
    folders = tuple(tmp_path / name for name in "abc")
    assert find_libpython(folders) == tmp_path / "b" / LIBPYTHON


def test_finding_the_wheel_imports_nothing_of_it():
    find_wheel()
    assert "pytriton" not in sys.modules


def test_backends_are_real_files_because_triton_refuses_links_out_of_its_folder(wheel, tmp_path):
    installation = assemble(wheel, tmp_path / "own")
    files = {
        str(path.relative_to(installation.backends))
        for path in installation.backends.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    assert files == {
        "python/libtriton_python.so",
        "python/triton_python_backend_stub",
        "python/triton_python_backend_utils.py",
        "onnxruntime/model.py",
        "pytorch/model.py",
    }
    assert os.access(installation.backends / "python/triton_python_backend_stub", os.X_OK)


def test_assembling_again_leaves_nothing_of_the_earlier_time(wheel, tmp_path):
    (tmp_path / "own/backends/retired").mkdir(parents=True)
    installation = assemble(wheel, tmp_path / "own")
    assert sorted(path.name for path in installation.backends.iterdir()) == [
        "onnxruntime",
        "python",
        "pytorch",
    ]


def test_the_native_backend_takes_the_place_of_the_python_based_one(wheel, native, tmp_path):
    installation = assemble(wheel, tmp_path / "own", native)
    copy = installation.backends / "onnxruntime/libtriton_onnxruntime.so"
    assert onnxruntime_backend(installation) == [copy.name]
    assert copy.read_text() == "native"
    assert not copy.is_symlink()
    assert (installation.backends / "pytorch/model.py").is_file()


def test_the_python_based_backend_comes_back_where_the_native_one_was(wheel, native, tmp_path):
    assemble(wheel, tmp_path / "own", native)
    installation = assemble(wheel, tmp_path / "own")
    assert onnxruntime_backend(installation) == ["model.py"]


def test_libpython_is_offered_without_its_neighbours(wheel, tmp_path):
    installation = assemble(wheel, tmp_path / "own")
    assert [path.name for path in installation.libraries.iterdir()] == [LIBPYTHON]
    assert (installation.libraries / LIBPYTHON).resolve() == wheel.libpython


def test_models_run_on_this_python_even_when_its_environment_is_not_activated(wheel, tmp_path):
    installation = assemble(wheel, tmp_path / "own")
    environment = server_environment(wheel, installation, {"PATH": "/usr/bin"})
    assert environment["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert environment["LD_LIBRARY_PATH"] == f"{wheel.libraries}:{installation.libraries}"


def test_what_the_user_has_set_is_kept(wheel, tmp_path):
    installation = assemble(wheel, tmp_path / "own")
    inherited = {"OMP_NUM_THREADS": "8", "LD_LIBRARY_PATH": "/opt/lib", "HOME": "/home/me"}
    environment = server_environment(wheel, installation, inherited)
    assert environment["OMP_NUM_THREADS"] == "8"
    assert environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["HOME"] == "/home/me"
    assert environment["LD_LIBRARY_PATH"].endswith(":/opt/lib")


def test_memory_of_native_models_goes_back_to_the_system_unless_the_user_says_otherwise(
    wheel, native, tmp_path
):
    installation = assemble(wheel, tmp_path / "own", native)
    inherited = {"MALLOC_ARENA_MAX": "8"}
    environment = server_environment(wheel, installation, inherited, native=native)
    assert environment["MALLOC_ARENA_MAX"] == "8"
    assert environment["MALLOC_TRIM_THRESHOLD_"] == str(256 * 2**20)


def test_the_allocator_is_left_alone_where_models_have_processes_of_their_own(wheel, tmp_path):
    installation = assemble(wheel, tmp_path / "own")
    environment = server_environment(wheel, installation, {})
    assert not any(name.startswith("MALLOC") for name in environment)
