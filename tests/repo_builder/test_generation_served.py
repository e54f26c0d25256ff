"""Models that generate, asked token by token through a real tritonserver."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tritonclient import grpc

from repo_builder.config.render import render_config
from repo_builder.judging.parity import original
from repo_builder.product import Product
from tests.repo_builder.architectures import GENERATING
from tests.repo_builder.builders import serving
from tests.repo_builder.sources.comparing import exported
from tests.repo_builder.test_architectures import load
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.embedded import EmbeddedLauncher

pytestmark = [pytest.mark.triton, pytest.mark.build]


def publish(checkpoint, name, repository):
    version = repository / name / "1"
    version.mkdir(parents=True)
    _, signature = exported(checkpoint, version)
    product = Product("onnxruntime", signature)
    (repository / name / "config.pbtxt").write_text(render_config(name, product, serving()).text)
    return {tensor.name: tensor.dtype for tensor in signature.inputs}


def asker(client, name, dtypes):
    """The served model, with named arrays in and out."""

    def predict(inputs):
        request = [grpc.InferInput(key, list(v.shape), dtypes[key]) for key, v in inputs.items()]
        for tensor, value in zip(request, inputs.values(), strict=True):
            tensor.set_data_from_numpy(value)
        result = client.infer(name, request)
        return {each.name: result.as_numpy(each.name) for each in result.get_response().outputs}

    return predict


@pytest.mark.parametrize("name", GENERATING)
async def test_a_server_generates_the_tokens_that_pytorch_does(tmp_path, name):
    repository = tmp_path / "repository"
    checkpoint = load(name, tmp_path)
    dtypes = await asyncio.to_thread(publish, checkpoint, name, repository)
    server = await EmbeddedLauncher().start(LaunchOptions("gpu0", repository, tmp_path / "state"))
    client = grpc.InferenceServerClient(server.endpoint.grpc)
    try:
        await asyncio.to_thread(client.load_model, name, server.endpoint.admin_grpc_headers)
        tokens = await asyncio.to_thread(checkpoint.generate, asker(client, name, dtypes))
    finally:
        client.close()
        await server.stop(0)
    assert np.array_equal(tokens, checkpoint.generate(original(name, checkpoint)))
