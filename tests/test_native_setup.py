"""Set-up builds the native backend when something has changed, and never fails because of it."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from scripts.native_backend import (
    State,
    bring_up_to_date,
    cause,
    digest,
    find_compiler,
    is_current,
    read_state,
    wanted_state,
    ways,
)

WANTED = State(sources="s1", wheel="", wheel_digest="", compiler="/usr/bin/c++", find_links="")


def state(**changes) -> State:
    return dataclasses.replace(WANTED, **changes)


@pytest.fixture
def native(tmp_path):
    folder = tmp_path / "native"
    for name in ("pyproject.toml", "CMakeLists.txt", "src/model.cc", "tests/test.cc", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def venv(tmp_path):
    (tmp_path / "venv").mkdir()
    return tmp_path / "venv"


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """One with a compiler and with nothing prebuilt; returns where its programs are."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "c++").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(programs))
    for name in ("CXX", "PIP_FIND_LINKS", "TRITONFLEET_NATIVE_WHEEL"):
        monkeypatch.delenv(name, raising=False)
    return programs


class Pip:
    """Records what it is told; installs a file, or fails, as the test wants."""

    def __init__(self, venv, works=lambda arguments: True) -> None:
        self.venv, self.works, self.calls, self.said = venv, works, [], []
        self.library = (
            venv / "lib/python3.11/site-packages/tritonfleet_onnxruntime/libtriton_onnxruntime.so"
        )

    def __call__(self, *arguments):
        self.calls.append(arguments)
        if not self.works(arguments):
            return [sys.executable, "-c", "raise SystemExit('error: no such luck')"]
        if arguments[0] == "install":
            self.library.parent.mkdir(parents=True, exist_ok=True)
            self.library.touch()
        return [sys.executable, "-c", ""]

    def set_up(self, native):
        """What pip was told by one set-up, and what people were told."""
        self.calls, self.said = [], []
        bring_up_to_date(native, self.venv, self, self.said.append)
        return [call[0] for call in self.calls]


# -- deciding ----------------------------------------------------------------------------------


def test_what_was_built_from_the_same_sources_is_kept():
    assert is_current(WANTED, WANTED, installed=True)
    assert not is_current(WANTED, WANTED, installed=False)
    assert not is_current(WANTED, None, installed=True)


@pytest.mark.parametrize("changed", [{"sources": "s2"}, {"wheel": "w"}, {"wheel_digest": "d"}])
@pytest.mark.parametrize("failure", ["", "it did not build"])
def test_other_contents_are_installed_whatever_became_of_the_earlier(changed, failure):
    assert not is_current(state(**changed), state(failure=failure), installed=True)


@pytest.mark.parametrize("changed", [{"compiler": "/usr/bin/clang++"}, {"find_links": "/wheels"}])
def test_other_means_are_a_reason_to_try_again_but_not_to_build_again(changed):
    failed = state(failure="it did not build")
    assert is_current(WANTED, failed, installed=False)
    assert not is_current(state(**changed), failed, installed=False)
    assert is_current(state(**changed), WANTED, installed=True)


def test_a_wheel_that_is_named_comes_before_everything_and_alone(native):
    (way,) = ways(state(wheel="/w/some.whl"), native)
    assert way[-1] == "/w/some.whl"


def test_sources_come_before_wheels_that_lie_around(native):
    built, found = ways(WANTED, native)
    assert built[-1] == str(native)
    assert found[-1] == "tritonfleet-onnxruntime"


def test_without_a_compiler_only_a_wheel_can_help(native):
    (way,) = ways(state(compiler=""), native)
    assert {"--no-index", "--only-binary=:all:"} <= set(way)


def test_no_index_is_ever_asked_for_the_backend_by_name(native):
    for wanted in (WANTED, state(compiler=""), state(wheel="/w/some.whl")):
        named = [way for way in ways(wanted, native) if way[-1] == "tritonfleet-onnxruntime"]
        assert all("--no-index" in way for way in named)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (WANTED, ("did not build with /usr/bin/c++", "x.log", "make native")),
        (state(compiler=""), ("no C++ compiler", "apt install g++", "TRITONFLEET_NATIVE_WHEEL")),
        (state(wheel="/w/some.whl"), ("/w/some.whl", "TRITONFLEET_NATIVE_WHEEL", "x.log")),
    ],
)
def test_a_failure_names_the_cause_and_the_next_step(tmp_path, wanted, words):
    told = cause(wanted, tmp_path / "x.log")
    assert all(word in told for word in words)


# -- looking -----------------------------------------------------------------------------------


def test_the_digest_is_of_what_is_built_and_of_nothing_else(native):
    before = digest(native)
    (native / "src/empty").mkdir()
    (native / "tests/test.cc").write_text("changed")
    (native / "README.md").write_text("changed")
    assert digest(native) == before
    (native / "src/model.cc").write_text("changed")
    changed = digest(native)
    (native / "src/model.cc").rename(native / "src/renamed.cc")
    assert len({before, changed, digest(native)}) == 3


@pytest.mark.parametrize("name", ["c++", "g++", "clang++"])
def test_any_usual_compiler_is_found(tmp_path, name):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / name).touch(mode=0o755)
    assert find_compiler({"PATH": str(folder)}) == str(folder / name)


def test_the_compiler_that_the_user_names_is_the_only_one(machine):
    path = str(machine)
    assert find_compiler({"PATH": path, "CXX": "nowhere++ -m64"}) is None
    assert find_compiler({"PATH": path, "CXX": f"{machine}/c++ -m64"}) == f"{machine}/c++"
    assert find_compiler({"PATH": ""}) is None


def test_a_wheel_that_was_made_anew_is_another(native, tmp_path):
    wheel = tmp_path / "some.whl"
    environment = {"TRITONFLEET_NATIVE_WHEEL": str(wheel), "PATH": ""}
    digests = {wanted_state(native, environment).wheel_digest}
    for contents in ("one", "two"):
        wheel.write_text(contents)
        digests.add(wanted_state(native, environment).wheel_digest)
    assert len(digests) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"sources": "s1"}', '{"of": "another age"}'])
def test_a_record_of_another_age_counts_as_none(tmp_path, text):
    (tmp_path / "record").write_text(text)
    assert read_state(tmp_path / "record") is None
    assert read_state(tmp_path / "nowhere") is None


# -- acting ------------------------------------------------------------------------------------


def test_it_is_built_once_and_again_when_sources_change(native, venv):
    pip = Pip(venv)
    assert pip.set_up(native) == ["install"]
    assert (pip.set_up(native), pip.said) == ([], [])
    (native / "src/model.cc").write_text("changed")
    assert pip.set_up(native) == ["install"]


def test_it_is_built_again_when_somebody_has_removed_it(native, venv):
    pip = Pip(venv)
    pip.set_up(native)
    pip.library.unlink()
    assert pip.set_up(native) == ["install"]


def test_a_failed_build_is_told_once_leaves_nothing_older_and_waits_for_a_change(
    native, venv, machine
):
    pip = Pip(venv, works=lambda arguments: arguments[0] == "uninstall")
    assert pip.set_up(native) == ["install", "install", "uninstall"]
    assert "did not build with" in pip.said[-1]
    assert "no such luck" in (venv / "tritonfleet-native.log").read_text()
    assert (pip.set_up(native), pip.said) == ([], [])
    (machine / "c++").rename(machine / "g++")
    assert pip.set_up(native) == ["install", "install", "uninstall"]


def test_a_wheel_in_a_folder_that_pip_knows_saves_a_failed_build(native, venv):
    pip = Pip(venv, works=lambda arguments: "--no-index" in arguments)
    assert pip.set_up(native) == ["install", "install"]
    assert len(pip.said) == 1
    assert pip.set_up(native) == []


def test_a_compiler_that_was_installed_since_is_used(native, venv, machine):
    (machine / "c++").unlink()
    pip = Pip(venv, works=lambda arguments: arguments[-1] == str(native))
    assert pip.set_up(native) == ["install", "uninstall"]
    assert "there is no C++ compiler" in pip.said[-1]
    (machine / "c++").touch(mode=0o755)
    assert pip.set_up(native) == ["install"]
