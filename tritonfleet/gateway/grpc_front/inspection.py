"""What can be asked about the fleet and its models over gRPC, without running one.

Of a model in memory Triton itself tells; of any other the repository does, in the same words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2

from tritonfleet.controller.controller import Controller
from tritonfleet.errors import ModelNotFound, VersionNotFound
from tritonfleet.gateway.desk import Desk
from tritonfleet.gateway.grpc_front.call import Call
from tritonfleet.gateway.grpc_front.channels import Channels
from tritonfleet.gateway.grpc_front.messages import parse
from tritonfleet.gateway.metadata import model_metadata, no_statistics, server_metadata

Published = Callable[[Any, tuple[int, ...]], Any]
"""From a model's config and versions to the answer for one that is not in memory."""


class Inspection:
    """Health, metadata, configuration and statistics."""

    def __init__(
        self,
        controller: Controller,
        desk: Desk,
        channels: Channels,
        *,
        version: str,
        configs: Callable[[str], Any],
        versions: Callable[[str], tuple[int, ...]],
    ) -> None:
        self._controller, self._desk, self._channels = controller, desk, channels
        self._version, self._configs, self._versions = version, configs, versions

    # -- the server ----------------------------------------------------------------------------

    async def server_live(self, _: bytes, __: Call) -> bytes:
        """True as long as the gateway answers."""
        return _bytes(service_pb2.ServerLiveResponse(live=True))

    async def server_ready(self, _: bytes, __: Call) -> bytes:
        """Whether a tritonserver is there to load models on."""
        return _bytes(service_pb2.ServerReadyResponse(ready=bool(self._controller.servers())))

    async def server_metadata(self, _: bytes, __: Call) -> bytes:
        """Name, version and extensions of this gateway."""
        told = server_metadata(self._version, shares=not self._desk.rules.tenants)
        return _bytes(json_format.ParseDict(told, service_pb2.ServerMetadataResponse()))

    # -- a model -------------------------------------------------------------------------------

    async def model_ready(self, body: bytes, call: Call) -> bytes:
        """Whether a model can be served, on demand if need be; not while its loads fail."""
        request = parse(service_pb2.ModelReadyRequest, body)
        try:
            server = self._server_of(request, call)
        except (ModelNotFound, VersionNotFound):  # an answer to Triton too, and no error
            return _bytes(service_pb2.ModelReadyResponse(ready=False))
        if server is not None:
            told = await self._relayed(server, "ModelReady", body, call)
            # One that Triton has let go of in this very moment is as ready as any cold one.
            if request.version or service_pb2.ModelReadyResponse.FromString(told).ready:
                return told
        failure = self._controller.ledger.failure(request.name, self._controller.now())
        ready = failure is None and not call.is_strict
        return _bytes(service_pb2.ModelReadyResponse(ready=ready))

    async def model_metadata(self, body: bytes, call: Call) -> bytes:
        """The model's inputs and outputs."""
        request = parse(service_pb2.ModelMetadataRequest, body)
        return await self._told("ModelMetadata", request, body, call, _metadata)

    async def model_config(self, body: bytes, call: Call) -> bytes:
        """The model's configuration."""
        request = parse(service_pb2.ModelConfigRequest, body)
        return await self._told("ModelConfig", request, body, call, _config)

    async def model_statistics(self, body: bytes, call: Call) -> bytes:
        """The model's statistics since it was loaded; those of all loaded ones without a name."""
        request = parse(service_pb2.ModelStatisticsRequest, body)
        if not request.name:
            return await self._all_statistics(body, call)
        return await self._told("ModelStatistics", request, body, call, _no_statistics)

    async def _all_statistics(self, body: bytes, call: Call) -> bytes:
        visible = set(self._desk.visible(call.tenant))
        answers = await asyncio.gather(
            *(self._channels.administer(server, "ModelStatistics", body)
              for server in self._controller.servers())
        )  # fmt: skip
        total = service_pb2.ModelStatisticsResponse()
        for answer in answers:
            told = service_pb2.ModelStatisticsResponse.FromString(answer.body).model_stats
            total.model_stats.extend(entry for entry in told if entry.name in visible)
        return _bytes(total)

    async def _told(
        self, method: str, request: Any, body: bytes, call: Call, cold: Published
    ) -> bytes:
        """Triton's own answer for a model in memory, else the same from the repository."""
        server = self._server_of(request, call)
        if server is not None:
            try:
                return await self._relayed(server, method, body, call)
            except grpc.aio.AioRpcError:
                if request.version:
                    raise
                # It has let go of the model in this very moment.
        config, versions = await asyncio.to_thread(self._published, request.name)
        return _bytes(cold(config, versions))

    def _published(self, model: str) -> tuple[Any, tuple[int, ...]]:
        return self._configs(model), self._versions(model)

    async def _relayed(self, server: str, method: str, body: bytes, call: Call) -> bytes:
        answer = await self._channels.unary(server, method, body, metadata=call.passed_on)
        call.trailing = answer.trailing
        return answer.body

    def _server_of(self, request: Any, call: Call) -> str | None:
        """Where a model is, None for nowhere; notes that for the client.

        Raises ModelNotFound, NotAllowed, or VersionNotFound for one that nobody published.
        """
        self._desk.check_model(call.tenant, request.name)
        server = self._controller.ledger.ready_on(request.name)
        call.tell_residency(cold=server is None)
        if server is None and request.version:
            published = self._versions(request.name)
            if request.version not in map(str, published):
                raise VersionNotFound(request.name, request.version, published)
        return server


def _metadata(config: Any, versions: tuple[int, ...]) -> Any:
    told = model_metadata(config, versions)
    return json_format.ParseDict(told, service_pb2.ModelMetadataResponse())


def _config(config: Any, _: tuple[int, ...]) -> Any:
    return service_pb2.ModelConfigResponse(config=config)


def _no_statistics(config: Any, versions: tuple[int, ...]) -> Any:
    told = no_statistics(config, versions)
    return json_format.ParseDict(told, service_pb2.ModelStatisticsResponse())


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())
