"""The native backend is taken where it can run; where it cannot, people are told why."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.launchers.processes import eventually
from tritonfleet.errors import LauncherUnavailable
from tritonfleet.launchers import native as native_module
from tritonfleet.launchers.native import (
    Choice,
    NativeBackend,
    choose_backend,
    events_folder,
    find_native,
    find_onnxruntime,
    listen_for_events,
    stop_listening,
    try_libraries,
)

SOME_LIBRARY = next(Path(sysconfig.get_path("platlib")).rglob("libonnxruntime.so.*"))
"""Any library that can be opened here stands for both."""


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Pretends that the two packages are installed, with the files that a test asks for."""
    places: dict[str, Path] = {}
    find_spec = importlib.util.find_spec

    def pretended(name, package=None):
        if name not in ("onnxruntime", "tritonfleet_onnxruntime"):
            return find_spec(name, package)
        if name not in places:
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(places[name])]
        return spec

    def install(name: str, **files: Path) -> None:
        places[name] = tmp_path / name
        for path, original in files.items():
            target = places[name] / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(original, target)

    monkeypatch.setattr(importlib.util, "find_spec", pretended)
    return install


@pytest.fixture
def complete(packages):
    """Both packages, with libraries that open."""
    packages("tritonfleet_onnxruntime", **{"libtriton_onnxruntime.so": SOME_LIBRARY})
    packages("onnxruntime", **{"capi/libonnxruntime.so.1.31.1": SOME_LIBRARY})


@pytest.fixture
def nonsense(tmp_path):
    path = tmp_path / "libnonsense.so"
    path.write_text("no library at all")
    return path


# -- choosing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["auto", "native"])
def test_native_is_taken_where_both_libraries_open(complete, tmp_path, wanted):
    choice = choose_backend(wanted, os.environ)
    assert choice.native == NativeBackend(
        tmp_path / "tritonfleet_onnxruntime/libtriton_onnxruntime.so",
        tmp_path / "onnxruntime/capi/libonnxruntime.so.1.31.1",
    )
    assert str(choice) == "native backend, ONNX Runtime 1.31.1"


def test_python_is_taken_when_it_is_asked_for_and_needs_no_reason(complete):
    assert choose_backend("python", os.environ) == Choice()
    assert str(Choice()) == "python-based backend"


@pytest.mark.parametrize(
    ("installed", "cause"),
    [
        ({}, "tritonfleet-onnxruntime is not installed"),
        ({"tritonfleet_onnxruntime": ()}, "tritonfleet-onnxruntime is not installed"),
        (
            {"tritonfleet_onnxruntime": ("libtriton_onnxruntime.so",)},
            "onnxruntime is not installed",
        ),
        (
            {"tritonfleet_onnxruntime": ("libtriton_onnxruntime.so",), "onnxruntime": ()},
            "this onnxruntime has no libonnxruntime.so",
        ),
        (
            {
                "tritonfleet_onnxruntime": ("libtriton_onnxruntime.so",),
                "onnxruntime": ("capi/libonnxruntime.so.1.22.0",),
            },
            "onnxruntime 1.22.0 is too old",
        ),
    ],
)
def test_what_is_missing_is_told_when_native_is_demanded_and_is_the_reason_otherwise(
    packages, installed, cause
):
    for name, files in installed.items():
        packages(name, **dict.fromkeys(files, SOME_LIBRARY))
    choice = choose_backend("auto", os.environ)
    assert choice.native is None
    assert str(choice).startswith(f"python-based backend: {cause}")
    with pytest.raises(LauncherUnavailable, match=rf"onnxruntime_backend is 'native', and {cause}"):
        choose_backend("native", os.environ)


def test_a_library_that_does_not_open_is_a_reason_with_the_linkers_words(packages, nonsense):
    packages("tritonfleet_onnxruntime", **{"libtriton_onnxruntime.so": nonsense})
    packages("onnxruntime", **{"capi/libonnxruntime.so.1.31.1": SOME_LIBRARY})
    reason = str(choose_backend("auto", os.environ))
    assert "does not fit this machine" in reason
    assert "libtriton_onnxruntime.so: file too short" in reason or "invalid ELF header" in reason
    with pytest.raises(LauncherUnavailable, match="does not fit this machine"):
        choose_backend("native", os.environ)


def test_an_older_onnxruntime_beside_a_newer_one_is_passed_over(tmp_path):
    for version in ("1.9.0", "1.31.1", "1.23.2"):
        (tmp_path / f"libonnxruntime.so.{version}").touch()
    (tmp_path / "libonnxruntime.so.1").touch()
    assert find_onnxruntime(tmp_path).name == "libonnxruntime.so.1.31.1"


def test_finding_imports_neither_package():
    code = (
        "import sys\n"
        "from tritonfleet.launchers.native import choose_backend\n"
        "choose_backend('auto', {})\n"
        "assert not {'onnxruntime', 'tritonfleet_onnxruntime'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- trying ------------------------------------------------------------------------------------


def test_a_library_that_wants_symbols_of_tritonserver_opens(tmp_path):
    """They are in the server only."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    source, library = tmp_path / "wants.cc", tmp_path / "libwants.so"
    source.write_text(
        'extern "C" int TRITONSERVER_Wanted();\nint use() { return TRITONSERVER_Wanted(); }\n'
    )
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True, timeout=60)
    try_libraries(NativeBackend(library, SOME_LIBRARY), os.environ)


def test_a_library_that_ends_the_process_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(native_module, "_TRIAL", "import os; os._exit(3)")
    with pytest.raises(LauncherUnavailable, match=r"opening .*libx\.so ended with 3"):
        try_libraries(NativeBackend(tmp_path / "libx.so", SOME_LIBRARY), os.environ)


def test_a_library_that_never_finishes_opening_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(native_module, "_TRIAL", "import time; time.sleep(600)")
    monkeypatch.setattr(native_module, "_TRIAL_TIMEOUT_S", 0.05)
    with pytest.raises(LauncherUnavailable, match=r"opening .*libx\.so takes too long"):
        try_libraries(NativeBackend(tmp_path / "libx.so", SOME_LIBRARY), os.environ)


def test_the_libraries_are_opened_in_the_environment_of_the_server(monkeypatch, tmp_path):
    monkeypatch.setattr(native_module, "_TRIAL", "import os, sys; sys.exit(os.environ['MARK'])")
    with pytest.raises(LauncherUnavailable, match="seen by the trial"):
        try_libraries(NativeBackend(tmp_path, tmp_path), {"MARK": "seen by the trial"})


@pytest.mark.skipif(
    importlib.util.find_spec("tritonfleet_onnxruntime") is None,
    reason="the native backend is not installed",
)
def test_what_is_installed_here_opens_here():
    try_libraries(find_native(), os.environ)


# -- events ------------------------------------------------------------------------------------


@pytest.fixture
def instance():
    return f"tritonfleet-test-{secrets.token_hex(4)}"


async def test_events_come_through_a_socket_that_is_nobody_elses(instance):
    events = await listen_for_events(instance)
    try:
        assert events.path.parent.stat().st_mode & 0o777 == 0o700
        told = {"event": "loaded", "model": "m", "version": 1, "bytes": 7}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(json.dumps(told).encode(), str(events.path))
        assert await eventually(lambda: events.bytes_of("m") == 7)
    finally:
        stop_listening(events)
    assert not events.path.parent.exists()


async def test_stopping_twice_or_after_the_guard_has_cleaned_up_is_harmless(instance):
    events = await listen_for_events(instance)
    shutil.rmtree(events.path.parent)
    stop_listening(events)
    stop_listening(events)
    stop_listening(None)


async def test_a_folder_that_somebody_has_made_before_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setattr(native_module, "events_folder", lambda instance: tmp_path / instance)
    (tmp_path / "taken").mkdir()
    with pytest.raises(FileExistsError):
        await listen_for_events("taken")
    assert (tmp_path / "taken").is_dir()


async def test_nothing_is_left_when_the_socket_cannot_be_made(monkeypatch, tmp_path):
    too_long = tmp_path / ("x" * 120)
    monkeypatch.setattr(native_module, "events_folder", lambda instance: too_long)
    with pytest.raises(OSError, match="too long"):
        await listen_for_events("any")
    assert not too_long.exists()


@pytest.mark.parametrize("folder", ["/tmp", f"/var/{'deep/' * 40}"])
def test_the_address_is_short_however_deep_the_temporary_folder_is(monkeypatch, folder):
    monkeypatch.setattr(native_module.tempfile, "tempdir", folder)
    path = events_folder("tritonfleet-0123456789ab") / "events"
    assert len(str(path).encode()) <= 107
