from __future__ import annotations

import pytest
from tritonclient.grpc import aio

from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.embedded import EmbeddedLauncher


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


@pytest.fixture
async def embedded(tmp_path, repository):
    """Starts embedded servers on ``repository``, and stops them when the test is over."""
    running = []

    async def start(name="gpu0", **options):
        server = await EmbeddedLauncher().start(
            LaunchOptions(name, repository, tmp_path / "state", **options)
        )
        running.append(server)
        return server

    yield start
    for server in running:
        await server.stop(0)


class Client(aio.InferenceServerClient):
    """A client that may load and unload."""

    def __init__(self, endpoint) -> None:
        super().__init__(endpoint.grpc)
        self._admin = endpoint.admin_grpc_headers

    async def load(self, model):
        await self.load_model(model, headers=self._admin)

    async def unload(self, model):
        await self.unload_model(model, headers=self._admin)

    async def state(self, model):
        index = await self.get_model_repository_index(headers=self._admin)
        return next(entry.state for entry in index.models if entry.name == model)

    async def ask(self, model, inputs, outputs=None, **options):
        """The outputs by name; ``inputs`` are ``name: (Triton type, array)``."""
        request = []
        for name, (dtype, array) in inputs.items():
            tensor = aio.InferInput(name, list(array.shape), dtype)
            tensor.set_data_from_numpy(array)
            request.append(tensor)
        wanted = [aio.InferRequestedOutput(name) for name in outputs] if outputs else None
        result = await self.infer(model, request, outputs=wanted, **options)
        return {each.name: result.as_numpy(each.name) for each in result.get_response().outputs}


@pytest.fixture
async def connect():
    """Makes clients, and closes them when the test is over."""
    clients = []

    def make(server):
        clients.append(Client(server.endpoint))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()
