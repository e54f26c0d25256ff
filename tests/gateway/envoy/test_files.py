"""The folder of Envoy's files: ours alone, and each file whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonfleet.errors import LauncherUnavailable
from tritonfleet.gateway.envoy import files

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_nobody_else_may_enter_the_folder_or_read_a_file(tmp_path):
    folder = tmp_path / "state" / "gateway"
    files.prepare(folder)
    files.write(folder / "cds.json", b"{}")
    assert (mode(folder), mode(folder / "cds.json")) == (0o700, 0o600)


def test_a_folder_that_was_open_is_closed(tmp_path):
    folder = tmp_path / "gateway"
    folder.mkdir(mode=0o755)
    files.prepare(folder)
    assert mode(folder) == 0o700


def test_a_link_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "gateway").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LauncherUnavailable, match="belongs to somebody else"):
        files.prepare(tmp_path / "gateway")


def test_what_an_interrupted_write_left_is_removed_and_the_rest_stays(tmp_path):
    (tmp_path / "cds.json.new").write_bytes(b"{")
    (tmp_path / "cds.json").write_bytes(b"{}")
    files.prepare(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["cds.json"]


def test_a_file_is_replaced_only_by_another_content(tmp_path):
    file = tmp_path / "cds.json"
    assert files.write(file, b"one")
    first = file.stat().st_ino
    assert not files.write(file, b"one")
    assert file.stat().st_ino == first
    assert files.write(file, b"two")
    assert (file.read_bytes(), file.stat().st_ino != first) == (b"two", True)


def test_a_reader_never_sees_half_a_file(tmp_path):
    file = tmp_path / "cds.json"
    files.write(file, b"x")
    with file.open("rb") as before:
        files.write(file, b"y" * 2**20)
        assert before.read() == b"x"


def test_what_was_there_comes_back(tmp_path):
    file = tmp_path / "cds.json"
    files.restore(file, b"old")
    assert files.read(file) == b"old"
    files.restore(file, None)
    assert files.read(file) is None


def test_the_folder_lies_in_memory_where_there_is_room(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "_MEMORY", tmp_path)
    monkeypatch.setattr(files, "_MEMORY_BYTES", 0)
    assert files.run_folder(Path("/srv/fleet")).parent == tmp_path


@pytest.mark.parametrize("memory", ["/nowhere", "/proc"])
def test_else_the_folder_lies_in_the_state_directory_if_a_socket_may(monkeypatch, memory):
    monkeypatch.setattr(files, "_MEMORY", Path(memory))
    assert files.run_folder(Path("/srv/fleet")) == Path("/srv/fleet/gateway")


def test_nothing_of_the_folder_is_left_in_the_end(tmp_path):
    folder = tmp_path / "gateway"
    files.prepare(folder)
    files.write(folder / "cds.json", b"{}")
    files.remove(folder)
    files.remove(folder)
    assert not folder.exists()


@given(st.text("abc/", min_size=1, max_size=300))
def test_the_folder_is_the_same_each_time_and_short_enough_for_sockets(path):
    state_dir = Path("/srv") / path
    folder = files.run_folder(state_dir)
    assert folder == files.run_folder(state_dir)
    assert len(os.fsencode(folder / "activator-http.sock")) <= 107


def test_two_state_directories_have_two_folders():
    long = "x" * 120
    assert files.run_folder(Path(f"/a/{long}")) != files.run_folder(Path(f"/b/{long}"))


@given(JSON)
def test_json_in_pieces_means_the_same_and_is_always_the_same(content):
    encoded = files.encode(content)
    assert json.loads(encoded) == content
    assert encoded == json.dumps(content, separators=(",", ":"), sort_keys=True).encode()


def test_one_process_at_a_time_holds_the_lock(tmp_path):
    hold = (
        "import sys\nfrom pathlib import Path\n"
        "from tritonfleet.gateway.envoy import files\n"
        "with files.locked(Path(sys.argv[1])) as lock: print(lock is not None)"
    )

    def elsewhere() -> str:
        return subprocess.run(
            [sys.executable, "-c", hold, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout.strip()

    with files.locked(tmp_path) as lock:
        assert lock is not None
        assert elsewhere() == "False"
    assert elsewhere() == "True"


# -- shared between a fleet and an Envoy of somebody else ------------------------------------------


def test_a_shared_folder_lies_in_the_state_directory_wherever_there_is_memory(monkeypatch):
    monkeypatch.setattr(files, "_MEMORY_BYTES", 0)
    assert files.run_folder(Path("/srv/fleet"), shared=True) == Path("/srv/fleet/gateway")


@given(st.integers(1, 150))
def test_a_shared_folder_is_short_enough_for_sockets_or_refused(length):
    state_dir = Path("/srv", "x" * length)
    try:
        folder = files.run_folder(state_dir, shared=True)
    except LauncherUnavailable as error:
        assert "Choose a shorter state_dir" in str(error)
        assert len(f"{state_dir}/gateway/activator-http.sock") > 107
    else:
        assert len(f"{folder}/activator-http.sock") <= 107


def test_the_last_to_end_removes_the_folder(tmp_path):
    folder = tmp_path / "state" / "gateway"
    shares = [files.Share(folder) for _ in range(3)]
    files.prepare(folder)
    for share in shares[:2]:
        share.end()
        share.end()
        assert folder.is_dir()
    shares[2].end()
    assert not folder.exists()


def test_a_share_ends_with_its_process(tmp_path):
    folder = tmp_path / "gateway"
    files.prepare(folder)
    code = (
        "import sys; from pathlib import Path; from tritonfleet.gateway.envoy.files import Share;"
        "share = Share(Path(sys.argv[1])); print('here', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"here\n"
    files.Share(folder).end()
    assert folder.is_dir()
    other.kill()
    other.communicate()
    files.Share(folder).end()
    assert not folder.exists()


def test_a_state_directory_where_nobody_may_write_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LauncherUnavailable, match="as one user who may write there"):
        files.Share(tmp_path / "file" / "gateway")
