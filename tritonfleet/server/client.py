"""What we say to one tritonserver, and what it answers, over gRPC.

Loads never go over HTTP: there a load runs on the thread that serves other clients' connections
and freezes them until it is done. Foreign errors end here: what leaves is a ServerError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritonfleet.errors import (
    FleetError,
    LoadFailed,
    ServerTimeout,
    ServerUnreachable,
    UnloadFailed,
)
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.server.states import IndexEntry, ReadyState, model_states

_T = TypeVar("_T")
CONFIRM_POLL_FIRST_S = 0.001
"""An ensemble is gone after about a millisecond, a model process after more than a second."""
CONFIRM_POLL_LONGEST_S = 0.02
SHORT_CALL_S = 10.0
_FOLDER_VANISHED = "failed to stat file"
_INDEX_ATTEMPTS = 5
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """What a server counts for one model, over all of its versions since it was loaded."""

    last_inference_ms: int
    """Unix time in milliseconds of the last completed inference; 0 before the first."""
    inference_count: int
    execution_count: int
    success_count: int
    memory_bytes: int = 0
    """What its backend reports that it holds, where the model runs; 0 for one that does not."""

    def with_those_of(self, other: ModelStatistics) -> ModelStatistics:
        """Of two versions of a model together."""
        return ModelStatistics(
            max(self.last_inference_ms, other.last_inference_ms),
            self.inference_count + other.inference_count,
            self.execution_count + other.execution_count,
            self.success_count + other.success_count,
            self.memory_bytes + other.memory_bytes,
        )


class InferenceRefused(FleetError):
    """Triton answered an inference with an error: the server lives, the request did not."""

    def __init__(self, model: str, code: str, reason: str) -> None:
        super().__init__(model, code, reason)
        self.model, self.code, self.reason = model, code, reason

    def __str__(self) -> str:
        return f"{self.model} answered {self.code}: {self.reason}"


class TritonClient:
    """A connection to one tritonserver; safe for any number of concurrent calls."""

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self.name, self.endpoint = name, endpoint
        self._channel = grpc.aio.insecure_channel(endpoint.grpc, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._admin = tuple(endpoint.admin_grpc_headers.items())

    async def close(self) -> None:
        """Ends the connection; calls in progress fail."""
        await self._channel.close()

    async def live(self) -> bool:
        """Whether the server answers at all."""
        try:
            answer = await self._call(
                self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=SHORT_CALL_S), "live"
            )
        except (ServerUnreachable, ServerTimeout):
            return False
        return bool(answer.live)

    async def version(self) -> str:
        """The release that the server says it is, such as 2.51.0."""
        request = service_pb2.ServerMetadataRequest()
        answer = await self._call(
            self._stub.ServerMetadata(request, timeout=SHORT_CALL_S), "metadata"
        )
        return str(answer.version)

    async def load(
        self,
        model: str,
        timeout_s: float,
        *,
        config: str = "",
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Loads a model and waits for it; LoadFailed with Triton's reason if it refuses.

        With ``config`` (JSON) and ``files`` (path in the model's folder: contents), the model
        consists of these, whatever the repository has under its name.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        if config:
            request.parameters["config"].string_param = config
        for path, contents in (files or {}).items():
            request.parameters[f"file:{path}"].bytes_param = contents
        call = self._stub.RepositoryModelLoad(request, timeout=timeout_s, metadata=self._admin)
        try:
            await self._call(call, f"load {model}", timeout_s)
        except InferenceRefused as error:
            raise LoadFailed(model, _load_reason(error.reason)) from error

    async def unload(self, model: str) -> None:
        """Asks for an unload. Triton answers before the memory is free: see ``until_unloaded``."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        call = self._stub.RepositoryModelUnload(request, timeout=SHORT_CALL_S, metadata=self._admin)
        try:
            await self._call(call, f"unload {model}")
        except InferenceRefused as error:
            raise UnloadFailed(model, error.reason) from error

    async def until_unloaded(self, model: str, version: int | None = None) -> None:
        """Returns once the index says that a model, or one version of it, is gone."""
        pause_s = CONFIRM_POLL_FIRST_S
        while True:
            index = await self.index()
            if version is not None:
                index = [entry for entry in index if entry.version == str(version)]
            state = model_states(index).get(model)
            if state is None or state.state in (ReadyState.UNAVAILABLE, ReadyState.UNKNOWN):
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, CONFIRM_POLL_LONGEST_S)

    async def index(self) -> list[IndexEntry]:
        """The repository index, a line for each version."""
        answer = await self._index()
        return [
            IndexEntry(model.name, model.version, ReadyState(model.state), model.reason)
            for model in answer.models
        ]

    async def _index(self) -> Any:
        attempts_left = _INDEX_ATTEMPTS
        while True:
            request = service_pb2.RepositoryIndexRequest()
            call = self._stub.RepositoryIndex(request, timeout=SHORT_CALL_S, metadata=self._admin)
            try:
                return await self._call(call, "index")
            except InferenceRefused as error:
                attempts_left -= 1
                # A folder that goes between Triton's listing and its look spoils the whole answer.
                if not attempts_left or _FOLDER_VANISHED not in error.reason:
                    raise
            await asyncio.sleep(CONFIRM_POLL_LONGEST_S)

    async def states(self) -> dict[str, IndexEntry]:
        """Every model's state."""
        return model_states(await self.index())

    async def statistics(self, model: str = "") -> dict[str, ModelStatistics]:
        """What the server counts for each loaded model, or for this one only."""
        request = service_pb2.ModelStatisticsRequest(name=model)
        answer = await self._call(
            self._stub.ModelStatistics(request, timeout=SHORT_CALL_S), "statistics"
        )
        return _by_model(answer.model_stats)

    async def version_statistics(self) -> dict[tuple[str, int], ModelStatistics]:
        """What the server counts for each version of each loaded model."""
        request = service_pb2.ModelStatisticsRequest()
        answer = await self._call(
            self._stub.ModelStatistics(request, timeout=SHORT_CALL_S), "statistics"
        )
        return {(one.name, int(one.version)): _counted(one) for one in answer.model_stats}

    async def infer(self, request: Any, timeout_s: float) -> Any:
        """One inference; InferenceRefused with code and reason if Triton answers an error."""
        call = self._stub.ModelInfer(request, timeout=timeout_s)
        return await self._call(call, f"infer {request.model_name}", timeout_s, request.model_name)

    async def stream(self, request: Any, timeout_s: float) -> list[Any]:
        """All answers to one request, however many; InferenceRefused at the first error.

        For decoupled models, which Triton does not let be asked in any other way.
        """
        call = self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s)
        name = request.model_name
        return await self._call(_answers(call, name), f"infer {name}", timeout_s, name)

    async def _call(
        self,
        call: Awaitable[_T],
        operation: str,
        timeout_s: float = SHORT_CALL_S,
        model: str = "",
    ) -> _T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._translated(error, operation, timeout_s, model) from error

    def _translated(
        self, error: grpc.aio.AioRpcError, operation: str, timeout_s: float, model: str
    ) -> FleetError:
        code, reason = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServerTimeout(self.name, operation, timeout_s)
        # Triton itself answers UNAVAILABLE with a reason of its own, such as a full queue.
        if code is grpc.StatusCode.UNAVAILABLE and is_transport(reason):
            return ServerUnreachable(self.name, self.endpoint.grpc)
        if code is grpc.StatusCode.CANCELLED and is_transport(reason):
            return ServerUnreachable(self.name, self.endpoint.grpc)
        return InferenceRefused(model or operation, code.name, reason)


async def _answers(call: Any, model: str) -> list[Any]:
    """Reads to the end, which Triton sends once the last request is done. Never cancels."""
    answers = []
    async for message in call:
        if message.error_message:
            raise InferenceRefused(model, "INTERNAL", message.error_message)
        answers.append(message.infer_response)
    return answers


def _load_reason(text: str) -> str:
    """Triton's reason without the traceback that the python backend hangs onto it."""
    return text.split("\n\nAt:", 1)[0].strip().rstrip(";").strip()


def is_transport(reason: str) -> bool:
    """Whether these are the words of the connection, and not of Triton."""
    signs = (
        "connect",
        "socket closed",
        "channel",
        "reset",
        "goaway",
        "transport",
        "stream removed",
    )
    return any(sign in reason.lower() for sign in signs) or not reason


def _by_model(statistics: Any) -> dict[str, ModelStatistics]:
    found: dict[str, ModelStatistics] = {}
    for entry in statistics:
        known = found.get(entry.name, ModelStatistics(0, 0, 0, 0))
        found[entry.name] = known.with_those_of(_counted(entry))
    return found


def _counted(entry: Any) -> ModelStatistics:
    return ModelStatistics(
        entry.last_inference,
        entry.inference_count,
        entry.execution_count,
        entry.inference_stats.success.count,
        _memory_bytes(entry.memory_usage),
    )


def _memory_bytes(usage: Any) -> int:
    """Of the device where it uses one, for that is what is scarce there; else of the host."""
    on_device: int = sum(one.byte_size for one in usage if one.type == "GPU")
    return on_device or sum(one.byte_size for one in usage)
