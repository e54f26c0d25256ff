from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from fleet_perf import install
from fleet_perf.install import Program, find, find_or_install, link_libraries, why_not
from tritonfleet.errors import AnalyzerMissing

WORKS = '#!/bin/sh\necho "Perf Analyzer Version  (commit unknown)" >&2\n'
LACKS_A_LIBRARY = (
    '#!/bin/sh\necho "perf_analyzer: error while loading shared libraries: libb64.so.0d" >&2\n'
    "exit 127\n"
)


@pytest.fixture(autouse=True)
def nothing_on_path(monkeypatch):
    monkeypatch.delenv(install.VARIABLE, raising=False)
    monkeypatch.setattr(install.shutil, "which", lambda _: None)


def program(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "perf_analyzer"
    path.write_text(text)
    path.chmod(0o755)
    return path


def wheel(folder: Path, text: str = WORKS) -> Path:
    path = folder / "tritonclient.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"tritonclient-{install.RELEASE}.data/data/bin/perf_analyzer", text)
    return path


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """What pip would fetch, with its digest as the expected one."""

    def offer(text: str = WORKS) -> None:
        path = wheel(tmp_path, text)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(install, "WHEEL_SHA256", digest)
        monkeypatch.setattr(install, "_download", lambda scratch: path.rename(scratch / "w.whl"))
        monkeypatch.setattr(install.platform, "system", lambda: "Linux")
        monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")

    return offer


def test_the_program_that_the_environment_names_comes_first(tmp_path, monkeypatch):
    named = program(tmp_path / "mine", WORKS)
    monkeypatch.setenv(install.VARIABLE, str(named))
    assert find(tmp_path) == Program(named)


def test_a_named_program_that_does_not_run_is_an_error_and_not_passed_over(tmp_path, monkeypatch):
    named = program(tmp_path / "mine", LACKS_A_LIBRARY)
    monkeypatch.setenv(install.VARIABLE, str(named))
    with pytest.raises(AnalyzerMissing, match="libb64"):
        find(tmp_path)


def test_a_named_program_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv(install.VARIABLE, str(tmp_path / "none"))
    with pytest.raises(AnalyzerMissing, match="cannot be started"):
        find(tmp_path)


def test_a_program_on_path_that_lacks_a_library_is_passed_over(tmp_path, monkeypatch):
    broken = program(tmp_path / "bin", LACKS_A_LIBRARY)
    monkeypatch.setattr(install.shutil, "which", lambda _: str(broken))
    assert find(tmp_path) is None


def test_a_program_on_path_is_used(tmp_path, monkeypatch):
    good = program(tmp_path / "bin", WORKS)
    monkeypatch.setattr(install.shutil, "which", lambda _: str(good))
    assert find(tmp_path) == Program(good)


def test_what_was_installed_is_found_the_next_time(tmp_path, offered):
    offered()
    told: list[str] = []
    first = find_or_install(tmp_path / "state", told.append)
    assert "fetching" in told[0]
    assert find(tmp_path / "state") == first
    assert find_or_install(tmp_path / "state", told.append) == first
    assert len(told) == 2  # nothing is fetched twice


def test_only_the_published_wheel_is_unpacked(tmp_path, offered, monkeypatch):
    offered()
    monkeypatch.setattr(install, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(AnalyzerMissing, match="SHA-256"):
        find_or_install(tmp_path / "state")
    assert find(tmp_path / "state") is None


def test_an_installed_program_that_does_not_run_here_says_why(tmp_path, offered):
    offered(LACKS_A_LIBRARY)
    with pytest.raises(AnalyzerMissing, match="libb64"):
        find_or_install(tmp_path / "state")


def test_other_machines_are_told_to_bring_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(install.platform, "machine", lambda: "aarch64")
    with pytest.raises(AnalyzerMissing, match=install.VARIABLE):
        find_or_install(tmp_path)


def test_when_pip_fetches_nothing_its_last_line_is_the_cause(tmp_path, monkeypatch):
    failed = install.subprocess.CompletedProcess([], 1, "", "a\nERROR: No matching distribution\n")
    monkeypatch.setattr(install.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(AnalyzerMissing, match="No matching distribution"):
        install._download(tmp_path)


def test_a_program_that_prints_something_else_is_none_of_ours(tmp_path):
    assert why_not(Program(program(tmp_path, "#!/bin/sh\necho hello\n"))) is not None


def test_libraries_get_the_names_that_are_asked_for(tmp_path, monkeypatch):
    source = tmp_path / "wheel"
    source.mkdir()
    (source / "libb64-98cb.so.0d").touch()
    (source / "libcudart-0952.so.12.6.77").touch()
    monkeypatch.setattr(install, "_wheel_libraries", lambda: source)
    folder = link_libraries(tmp_path / "lib")
    assert folder is not None
    assert (folder / "libb64.so.0d").samefile(source / "libb64-98cb.so.0d")
    assert (folder / "libcudart.so.12").samefile(source / "libcudart-0952.so.12.6.77")


def test_a_link_to_an_environment_that_is_gone_is_made_anew(tmp_path, monkeypatch):
    source, folder = tmp_path / "wheel", tmp_path / "lib"
    source.mkdir()
    folder.mkdir()
    (source / "libb64-98cb.so.0d").touch()
    (folder / "libb64.so.0d").symlink_to(tmp_path / "gone")
    monkeypatch.setattr(install, "_wheel_libraries", lambda: source)
    link_libraries(folder)
    assert (folder / "libb64.so.0d").samefile(source / "libb64-98cb.so.0d")


def test_our_libraries_come_before_those_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/theirs")
    environment = Program(tmp_path / "p", Path("/ours")).environment()
    assert environment["LD_LIBRARY_PATH"] == os.pathsep.join(["/ours", "/theirs"])
