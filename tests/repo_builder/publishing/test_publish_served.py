"""A real tritonserver loads a model again and again while builds publish and go back.

By the python backend: it starts a process first and opens the model's files half a second after
Triton has chosen the version, many publications later.
"""

from __future__ import annotations

import shutil
import threading
from datetime import datetime, timezone

import pytest

from repo_builder.publishing import versions
from repo_builder.publishing.publish import commit, stage_files
from repo_builder.publishing.rollback import roll_back
from repo_builder.publishing.staging import open_staging
from repo_builder.publishing.verify import verify
from tests.repo_builder.publishing.test_publish import sha256
from tests.tiny import write_adder
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.embedded import EmbeddedLauncher
from tritonfleet.server.client import TritonClient
from tritonfleet.server.layout import ManifestEntry, model_versions
from tritonfleet.server.states import ReadyState

pytestmark = pytest.mark.triton

LOADS = 6
# Far more than a load of these takes, and little enough for versions to leave in this test.
GRACE_S = 8.0


@pytest.fixture
def adder(tmp_path):
    """A version folder to publish copies of, and the configuration for it."""
    write_adder(tmp_path / "source", "m")
    folder = tmp_path / "source" / "m"
    return folder / "1", (folder / "config.pbtxt").read_text()


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


def publish(repository, adder, number):
    """What a build does, with as few versions kept as can be asked for."""
    version, config = adder
    now = datetime.now(timezone.utc)
    with open_staging(repository) as staging:
        contents = staging / "version"
        shutil.copytree(version, contents)
        files = {"config.pbtxt": f"{config}\n# build {number}\n"}
        staged = stage_files("m", contents, files, 1, repository, staging, now=now)
        entry = ManifestEntry(
            fingerprint=str(number), version=staged.version, backend="onnxruntime", source={},
            digest=str(number), artifact_bytes=1, built_at=now.isoformat(),
        )  # fmt: skip
        commit(staged, entry, repository, sha256)


class Builder(threading.Thread):
    """Publishes without a pause, and rolls every tenth publication back."""

    def __init__(self, repository, adder, digests) -> None:
        super().__init__()
        self.repository, self.adder, self.digests = repository, adder, digests
        self.ended, self.count, self.error = threading.Event(), 1, None

    def run(self):
        try:
            while not self.ended.is_set():
                self.count += 1
                publish(self.repository, self.adder, self.count)
                if self.count % 10 == 0:
                    now = datetime.now(timezone.utc)
                    roll_back("m", self.repository, self.digests, now=now)
        except Exception as error:  # handed to the test's own thread
            self.error = error


async def test_no_load_fails_while_builds_replace_the_model(
    repository, adder, tmp_path, monkeypatch
):
    monkeypatch.setattr(versions, "GRACE_S", GRACE_S)
    publish(repository, adder, 1)
    builder = Builder(repository, adder, tmp_path / "digests.json")
    server = await EmbeddedLauncher().start(
        LaunchOptions("gpu0", repository, tmp_path / "state", onnxruntime_backend="python")
    )
    client = TritonClient("gpu0", server.endpoint)
    try:
        await client.load("m", timeout_s=60)
        builder.start()
        loaded = set()
        # Versions have to leave while it goes on, or nothing would be shown.
        while len(loaded) < LOADS or model_versions(repository / "m")[0] < LOADS:
            await client.load("m", timeout_s=60)
            loaded |= {e.version for e in await client.index() if e.state is ReadyState.READY}
            assert builder.error is None
    finally:
        builder.ended.set()
        builder.join()
        await client.close()
        await server.stop(0)
    assert verify(repository).differences == ()
