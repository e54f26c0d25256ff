"""Envoy between a client and small servers that play Triton and the activator."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
from aiohttp import web
from tritonclient.grpc import service_pb2

from tests.gateway.envoy.backends import INFER, STREAM, Backend, activator, infer_request, triton
from tests.gateway.envoy.running import Running, plan, running, short_folder
from tritonfleet.gateway.envoy.plan import ModelPlan


@dataclass
class Stage:
    """All who take part."""

    envoy: Running
    servers: list[Backend]
    activator: Backend
    session: aiohttp.ClientSession
    channel: grpc.aio.Channel

    @property
    def triton(self) -> Backend:
        """The only tritonserver."""
        return self.servers[0]

    async def post(self, path: str, body: bytes = b"{}", **headers: str) -> Answer:
        """An HTTP request; a path without a slash is a model that is asked."""
        path = path if path.startswith("/") else f"/v2/models/{path}/infer"
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(self.envoy.http + path, data=body, headers=names) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def infer(
        self, model: str, version: str = "", *, body: bytes | None = None, **headers: str
    ) -> str:
        """A gRPC request; the name of whoever answered. Errors raise."""
        message = infer_request(model, version) if body is None else body
        return (await self.call(message, **headers))[0]

    async def call(self, message: bytes, **headers: str) -> tuple[str, dict[str, Any]]:
        """Who answered a gRPC request, and the metadata."""
        metadata = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        call = self.channel.unary_unary(INFER)(message, metadata=metadata, timeout=20)
        answer = service_pb2.ModelInferResponse.FromString(await call)
        return answer.model_name, dict(await call.initial_metadata())

    async def call_within(self, deadline_s: float, model: str) -> bytes:
        """A gRPC request with a deadline."""
        call = self.channel.unary_unary(INFER)(infer_request(model), timeout=deadline_s)
        return bytes(await call)

    async def stream(self, *models: str, **headers: str) -> list[str]:
        """Who answered each message of a stream."""
        metadata = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        messages = iter([infer_request(model) for model in models])
        call = self.channel.stream_stream(STREAM)(messages, metadata=metadata, timeout=20)
        parse = service_pb2.ModelStreamInferResponse.FromString
        return [parse(message).infer_response.model_name async for message in call]


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def by(self) -> str:
        """Who answered."""
        return str(self.json()["by"])

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


@contextlib.asynccontextmanager
async def stage(
    *models: ModelPlan | str,
    servers: int = 1,
    residency: dict[str, Any] | None = None,
    **fields: Any,
) -> AsyncIterator[Stage]:
    """Everything up, on as many tritonservers as are wanted; residency names who is on which."""
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(short_folder())
        tritons = [await stack.enter_async_context(triton(f"gpu{i}")) for i in range(servers)]
        addresses = tuple(address for _, address in tritons)
        fields.setdefault("access_log", folder / "access.log")
        wish = plan(folder, *models, servers=addresses, **fields)
        behind = await stack.enter_async_context(activator(wish))
        envoy = await stack.enter_async_context(running(wish, **(residency or {})))
        session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(envoy.grpc))
        yield Stage(envoy, [backend for backend, _ in tritons], behind, session, channel)


def error(status: int, message: str, **headers: str) -> Any:
    """An HTTP answer in Triton's form, for ``Backend.http``."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"error": message}, status=status, headers=headers)

    return answer


def abort(code: grpc.StatusCode, message: str) -> Any:
    """A gRPC answer, for ``Backend.grpc``."""

    async def answer(_: Any, context: Any) -> bytes:
        await context.abort(code, message)
        raise AssertionError

    return answer


async def until(holds: Callable[[], Any]) -> None:
    """Returns once something is so; what is asked may have to be awaited."""
    for _ in range(4000):
        answer = holds()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("this never came to be")
