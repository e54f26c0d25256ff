"""Addresses that fsspec reaches: memory, a web server, archives."""

from __future__ import annotations

import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from repo_builder.artifacts import artifact_path, artifact_state
from tests.repo_builder.builders import files
from tritonfleet.errors import SourceUnavailable


@pytest.fixture
def memory():
    """An empty file system in memory."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def state(where, context):
    return artifact_state(where, context, lambda path: f"digest of {path.name}")


def nothing_half(context) -> bool:
    """Whether the cache holds nothing but whole contents."""
    return not list(context.cache.glob("content/*")) and not list(context.cache.glob("partial/*"))


def test_any_address_of_fsspec_will_do(memory, context):
    memory.pipe("/bert/model.onnx", b"graph")
    memory.pipe("/bert/sub/weights", b"weights")
    assert files(artifact_path("memory://bert", context)) == {
        "model.onnx": b"graph", "sub/weights": b"weights",
    }  # fmt: skip
    assert artifact_path("memory://bert/model.onnx", context).read_bytes() == b"graph"


def test_the_state_is_known_once_it_is_here_and_follows_the_content(memory, context):
    memory.pipe("/a", b"one")
    assert state("memory://a", context) is None
    artifact_path("memory://a", context)
    one = state("memory://a", context)
    memory.pipe("/a", b"two")
    assert state("memory://a", context) is None
    artifact_path("memory://a", context)
    assert one is not None and one != state("memory://a", context)


def test_the_same_bytes_written_again_are_the_same_state(memory, context):
    memory.pipe("/a", b"one")
    artifact_path("memory://a", context)
    before = state("memory://a", context)
    memory.pipe("/a", b"one")
    artifact_path("memory://a", context)
    assert state("memory://a", context) == before


def test_a_file_on_this_machine_is_used_where_it_lies(context, tmp_path):
    file = tmp_path / "a model.onnx"
    file.write_bytes(b"x")
    assert artifact_path(file.as_uri(), context) == file
    assert state(file.as_uri(), context) == {"digest": "digest of a model.onnx"}
    assert not context.cache.exists()


def test_a_file_address_with_a_host_is_refused(context):
    with pytest.raises(SourceUnavailable, match="names a host, 'models'"):
        artifact_path("file://models/bert", context)


def test_an_unknown_protocol_is_told(context):
    with pytest.raises(SourceUnavailable, match=r"nosuch://x cannot be read.*Protocol not known"):
        artifact_path("nosuch://x", context)


def test_a_missing_package_is_told_with_the_extra(context, monkeypatch):
    def no_s3fs(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", no_s3fs)
    with pytest.raises(SourceUnavailable, match=r"pip install 'tritonfleet\[s3\]'"):
        artifact_path("s3://models/bert", context)
    with pytest.raises(SourceUnavailable, match=r"needs a package.*Install s3fs"):
        artifact_path("gs://models/bert", context)


def test_a_download_that_ends_early_is_never_used(memory, context, monkeypatch):
    memory.pipe("/bert/model.onnx", b"weights")

    def cut_short(self, rpath, lpath, **_):
        for target in lpath:
            Path(target).write_bytes(b"wei")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "get", cut_short)
        with pytest.raises(SourceUnavailable, match=r"3 bytes of 7 bytes of model\.onnx"):
            artifact_path("memory://bert", context)
    assert nothing_half(context)
    assert files(artifact_path("memory://bert", context)) == {"model.onnx": b"weights"}


def test_what_changes_while_it_is_downloaded_is_refused(memory, context, monkeypatch):
    memory.pipe("/bert/model.onnx", b"weights")
    fetch = type(memory).get

    def changing(self, *arguments, **options):
        fetch(self, *arguments, **options)
        memory.pipe("/bert/vocabulary", b"new")

    monkeypatch.setattr(type(memory), "get", changing)
    with pytest.raises(SourceUnavailable, match="memory://bert changed while it was downloaded"):
        artifact_path("memory://bert", context)
    assert nothing_half(context)


def test_a_full_disk_is_told_as_one(memory, context, monkeypatch):
    memory.pipe("/bert/model.onnx", b"weights")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(memory), "get", full)
    with pytest.raises(SourceUnavailable, match="the disk is full"):
        artifact_path("memory://bert", context)
    assert nothing_half(context)


def archive(path: Path, **entries: str) -> str:
    with zipfile.ZipFile(path, "w") as file:
        for name, text in entries.items():
            file.writestr(name, text)
    return f"zip://::{path.as_uri()}"


def test_an_archive_may_be_named_with_a_chain(context, tmp_path):
    where = archive(tmp_path / "a.zip", **{"model.onnx": "graph", "sub/w": "weights"})
    assert files(artifact_path(where, context)) == {"model.onnx": b"graph", "sub/w": b"weights"}


@pytest.mark.parametrize("name", ["../outside", "sub/../../outside"])
def test_a_name_in_an_archive_that_leaves_it_is_refused(context, tmp_path, name):
    with pytest.raises(SourceUnavailable, match="leads out of zip://"):
        artifact_path(archive(tmp_path / "a.zip", **{name: "x", "inner": "y"}), context)
    assert not list(tmp_path.rglob("outside"))


class _Server(BaseHTTPRequestHandler):
    """/whole has an ETag, /silent tells nothing, /cut ends early, others answer with their name."""

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, head):
        name = self.path.partition("?")[0].strip("/")
        if name.isdigit():
            self.send_error(int(name))
            return
        body = b"" if head else b"weights"
        self.send_response(200)
        self.send_header("Content-Length", "7")
        if name != "silent":
            self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(body[:3] if name == "cut" else body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def web():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_web_server_with_checksums_is_read_once(web, context):
    path = artifact_path(f"{web}/whole", context)
    assert path.read_bytes() == b"weights"
    assert state(f"{web}/whole", context) is not None


def test_what_tells_no_version_is_fetched_each_time(web, context):
    path = artifact_path(f"{web}/silent", context)
    assert state(f"{web}/silent", context) is None
    assert artifact_path(f"{web}/silent", context) == path


def test_a_connection_that_breaks_leaves_nothing_behind(web, context):
    with pytest.raises(SourceUnavailable, match=r"http://127.*/cut"):
        artifact_path(f"{web}/cut", context)
    assert nothing_half(context)


@pytest.mark.parametrize(
    ("status", "text"),
    [(404, "there is nothing at"), (403, "access to .* is denied"), (401, "are refused")],
)
def test_what_a_web_server_refuses_is_told(web, context, status, text):
    with pytest.raises(SourceUnavailable, match=text):
        artifact_path(f"{web}/{status}", context)


def test_a_web_server_that_is_gone_is_unreachable(context):
    with pytest.raises(SourceUnavailable, match="nobody answers for"):
        artifact_path("http://127.0.0.1:9/model.onnx", context)
