"""One inference over either protocol, as cheap for the client as Python allows.

The bytes of a request are made once. An answer is judged by its tensor, so that one which belongs
to another model is found out, and says whether its model was in memory: NVIDIA's client keeps the
headers that tell so to itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import grpc
import grpc.aio
import numpy
from tritonclient.grpc import service_pb2

from fleet_perf.analyzer import Protocol as Wire
from fleet_perf.inputs import Tensor, grpc_request, http_request
from tritonfleet.gateway.envoy.plan import RESIDENCY_HEADER, WAIT_HEADER

TIMEOUT_S = 120.0
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_HEADER_LENGTH = "Inference-Header-Content-Length"
_ERROR_CHARACTERS = 120
_CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, as another process has one
    ("grpc.max_receive_message_length", -1),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request."""

    error: str = ""
    cold: bool = False
    """The gateway says that the model was not in memory when the request came."""
    output: bytes = b""
    """The answer's first tensor."""
    wait_ms: float = 0.0
    """How long the gateway held the request until the model was there."""


class HttpCaller:
    """Asks over HTTP, tensors in binary."""

    def __init__(self, address: str, models: Sequence[str], tensors: Sequence[Tensor]) -> None:
        self._body, self._headers = http_request(tensors)
        self._urls = {m: f"http://{address}/v2/models/{quote(m, safe='')}/infer" for m in models}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> HttpCaller:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            # Else aiohttp asks for compressed answers, and Triton compresses each of them.
            headers={"Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, model: str) -> Outcome:
        """One inference."""
        try:
            async with self._session.post(
                self._urls[model], data=self._body, headers=self._headers
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            return Outcome(type(error).__name__)
        if answer.status != 200:
            return Outcome(f"{answer.status} {_brief(content.decode(errors='replace'))}")
        head = int(answer.headers.get(_HEADER_LENGTH, len(content)))
        return _good(answer.headers, content[head:])


class GrpcCaller:
    """Asks over gRPC."""

    def __init__(self, address: str, models: Sequence[str], tensors: Sequence[Tensor]) -> None:
        self._address = address
        self._requests = {m: grpc_request(m, tensors).SerializeToString() for m in models}
        self._channel: grpc.aio.Channel
        self._infer: Any

    async def __aenter__(self) -> GrpcCaller:
        self._channel = grpc.aio.insecure_channel(self._address, options=_CHANNEL_OPTIONS)
        self._infer = self._channel.unary_unary(
            _METHOD, None, service_pb2.ModelInferResponse.FromString
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def ask(self, model: str) -> Outcome:
        """One inference."""
        call = self._infer(self._requests[model], timeout=TIMEOUT_S)
        try:
            answer = await call
            headers = await _metadata(call)
        except grpc.aio.AioRpcError as error:
            return Outcome(f"{error.code().name} {_brief(error.details() or '')}")
        return _good(headers, answer.raw_output_contents[0])


def _good(headers: Mapping[str, str], output: bytes) -> Outcome:
    cold = headers.get(RESIDENCY_HEADER) == "cold"
    return Outcome("", cold, output, float(headers.get(WAIT_HEADER, 0.0)))


async def _metadata(call: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in await call.initial_metadata() or ()}


CALLERS: Mapping[Wire, Any] = {"http": HttpCaller, "grpc": GrpcCaller}


def caller(
    wire: Wire, address: str, models: Sequence[str], tensors: Sequence[Tensor]
) -> HttpCaller | GrpcCaller:
    """A client for ``address`` (host:port) that may ask these models."""
    made: HttpCaller | GrpcCaller = CALLERS[wire](address, models, tensors)
    return made


def same_answer(one: bytes, other: bytes) -> bool:
    """Whether two tensors of floats are what one model answers.

    Not always to the last bit: ONNX Runtime's order of summing follows the alignment of memory.
    """
    if one == other:
        return True
    return len(one) == len(other) and numpy.allclose(
        numpy.frombuffer(one, "<f4"), numpy.frombuffer(other, "<f4"), rtol=1e-3, atol=1e-5
    )


def _brief(text: str) -> str:
    """The first line, and of that not too much: errors are counted by their text."""
    return text.partition("\n")[0][:_ERROR_CHARACTERS]
