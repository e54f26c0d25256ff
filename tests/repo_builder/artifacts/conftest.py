"""An S3 store on this machine, and an MLflow registry in a folder: real ones, both."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from typing import Any

import pytest

from repo_builder.sources.base import SourceContext


@pytest.fixture
def context(tmp_path):
    return SourceContext("m", tmp_path, tmp_path / "repository", tmp_path / "cache")


@dataclass(frozen=True)
class Store:
    """The S3 server of these tests, with one bucket."""

    endpoint: str
    client: Any

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket="models", Key=key, Body=body)

    def check_credentials(self) -> None:
        """From now on the server wants to know who asks; it knows nobody."""
        _post(f"{self.endpoint}/moto-api/reset-auth", b"0")

    def downloads(self) -> int:
        """How many objects have been read so far."""
        return _SEEN.count("GET object")


_SEEN: list[str] = []


def _post(address: str, body: bytes) -> None:
    plain = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(address, body, plain, method="POST")).close()


@pytest.fixture(scope="session")
def s3_server():
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer
    from werkzeug.serving import WSGIRequestHandler

    def note(self, *_: Any) -> None:
        command, _, path = f"{self.command} {self.path}".partition(" ")
        key = path.partition("?")[0].strip("/").partition("/")[2]
        _SEEN.append(f"{command} {'object' if key else 'bucket'}")

    patched = pytest.MonkeyPatch()
    patched.setattr(WSGIRequestHandler, "log_request", note)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    patched.undo()


@pytest.fixture
def s3(s3_server, monkeypatch, tmp_path):
    import boto3
    from s3fs import S3FileSystem

    # Those of another test know its endpoint and its credentials.
    S3FileSystem.clear_instance_cache()
    settings = {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    _post(f"{s3_server}/moto-api/reset-auth", b"inf")
    _post(f"{s3_server}/moto-api/reset", b"")
    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket="models")
    _SEEN.clear()
    return Store(s3_server, client)
