"""The client against a real tritonserver."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest
from grpc.aio import Metadata
from tritonclient.grpc import service_pb2

from tests.tiny import write_adder
from tritonfleet.controller.warmup import prove
from tritonfleet.errors import LoadFailed, ServerTimeout, ServerUnreachable
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.embedded import EmbeddedLauncher
from tritonfleet.server.client import InferenceRefused, TritonClient
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.server.inference import warmup_request
from tritonfleet.server.pbtxt import read_config
from tritonfleet.server.states import ReadyState

pytestmark = pytest.mark.triton


@pytest.fixture
async def client(tmp_path):
    repository = tmp_path / "repository"
    write_adder(repository, "one")
    write_adder(repository, "broken")
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"")
    options = LaunchOptions("local", repository, tmp_path / "state")
    server = await EmbeddedLauncher().start(options)
    client = TritonClient("local", server.endpoint)
    yield client
    await client.close()
    await server.stop(5)


async def test_a_model_is_loaded_proved_counted_and_unloaded(client, tmp_path):
    config = read_config(tmp_path / "repository", "one")
    assert await client.live()
    assert (await client.states())["one"].state is ReadyState.UNKNOWN
    await client.load("one", 60)
    await prove(client, config, 10)
    assert (await client.states())["one"].state is ReadyState.READY
    statistics = (await client.statistics())["one"]
    assert (statistics.inference_count, statistics.success_count) == (1, 1)
    assert statistics.last_inference_ms > 0
    await client.unload("one")
    await client.until_unloaded("one")
    assert (await client.states())["one"].state is ReadyState.UNAVAILABLE
    with pytest.raises(InferenceRefused, match="NOT_FOUND"):
        await client.infer(warmup_request(config), 5)
    with pytest.raises(LoadFailed, match="does not answer"):
        await prove(client, config, 5)


async def test_a_broken_model_gives_tritons_reason(client):
    with pytest.raises(LoadFailed, match="broken"):
        await client.load("broken", 60)


async def test_a_load_that_takes_too_long_is_a_timeout(client):
    with pytest.raises(ServerTimeout, match="load one"):
        await client.load("one", 0.001)


def refusing(times, reason):
    """Triton's index, which is refused so often first."""
    answers = [grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, Metadata(), Metadata(), reason)]
    answers = answers * times + [service_pb2.RepositoryIndexResponse()]

    async def index(*_, **__):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return index


async def test_a_model_that_is_removed_meanwhile_does_not_spoil_the_index(client, monkeypatch):
    vanished = refusing(2, "failed to stat file /models/old")
    monkeypatch.setattr(client._stub, "RepositoryIndex", vanished)
    assert await client.index() == []


@pytest.mark.parametrize(("times", "reason"), [(9, "failed to stat file /x"), (1, "no memory")])
async def test_an_index_that_stays_refused_is_told(client, monkeypatch, times, reason):
    monkeypatch.setattr(client._stub, "RepositoryIndex", refusing(times, reason))
    with pytest.raises(InferenceRefused, match=reason):
        await client.index()


async def test_the_server_tells_its_release(client):
    assert (await client.version()).startswith("2.")


async def test_nobody_at_the_address_is_unreachable():
    client = TritonClient("ghost", Endpoint("127.0.0.1:9", "127.0.0.1:9"))
    assert not await client.live()
    with pytest.raises(ServerUnreachable, match=r"'ghost' does not answer at 127\.0\.0\.1:9"):
        await asyncio.wait_for(client.index(), 30)
    await client.close()
