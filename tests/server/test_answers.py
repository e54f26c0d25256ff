"""What the client makes of Triton's answers, from a server that says what the test wants."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritonfleet.server.client import TritonClient
from tritonfleet.server.endpoint import Endpoint


class Answers(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Gives its statistics, and the states of 'bert' one after the other."""

    def __init__(self):
        self.statistics = service_pb2.ModelStatisticsResponse()
        self.asked_about: list[str] = []
        self.states = ["READY"]

    async def ModelStatistics(self, request, _):
        self.asked_about.append(request.name)
        return self.statistics

    async def RepositoryIndex(self, request, _):
        answer = service_pb2.RepositoryIndexResponse()
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        answer.models.add(name="bert", version="1", state=state)
        return answer


@pytest.fixture
def answers():
    return Answers()


@pytest.fixture
async def client(answers):
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(answers, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = TritonClient("gpu0", Endpoint("127.0.0.1:9", f"127.0.0.1:{port}"))
    yield client
    await client.close()
    await server.stop(None)


def version(answers, number, **usage):
    counted = answers.statistics.model_stats.add(name="bert", version=str(number))
    for kind, size in usage.items():
        counted.memory_usage.add(type=kind, id=0, byte_size=size)


async def test_memory_is_added_up_over_versions(client, answers):
    version(answers, 1, CPU=3)
    version(answers, 2, CPU=4)
    assert (await client.statistics())["bert"].memory_bytes == 7


async def test_a_model_on_a_device_holds_what_it_holds_there(client, answers):
    version(answers, 1, CPU=1, GPU=6)
    assert (await client.statistics())["bert"].memory_bytes == 6


async def test_a_backend_that_reports_nothing_holds_nothing_that_is_known(client, answers):
    version(answers, 1)
    assert (await client.statistics("bert"))["bert"].memory_bytes == 0
    assert answers.asked_about == ["bert"]


async def test_a_model_is_unloaded_once_the_index_says_so(client, answers):
    answers.states = ["UNLOADING", "UNLOADING", "UNAVAILABLE"]
    await asyncio.wait_for(client.until_unloaded("bert"), 10)
    assert answers.states == ["UNAVAILABLE"]
