"""Triton's repository extension over gRPC: it drives our residency, and not Triton's behind us."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import service_pb2

from tritonfleet.controller.controller import Controller
from tritonfleet.gateway.desk import Desk
from tritonfleet.gateway.grpc_front.call import Call
from tritonfleet.gateway.grpc_front.messages import parse
from tritonfleet.gateway.repository import RepositoryExtension, check_parameters


class Repository:
    """The index of the fleet's models, and loads and unloads within the budget."""

    def __init__(self, controller: Controller, desk: Desk, extension: RepositoryExtension) -> None:
        self._controller, self._desk, self._extension = controller, desk, extension

    async def index(self, body: bytes, call: Call) -> bytes:
        """The models that the caller may know of, or those in memory."""
        request = parse(service_pb2.RepositoryIndexRequest, body)
        entries = self._extension.entries(call.tenant, only_ready=request.ready)
        told = {"models": entries}
        answer = json_format.ParseDict(told, service_pb2.RepositoryIndexResponse())
        return bytes(answer.SerializeToString())

    async def load(self, body: bytes, call: Call) -> bytes:
        """Makes a model resident, within the budget."""
        request = parse(service_pb2.RepositoryModelLoadRequest, body)
        model = self._managed(request, call, "load")
        check_parameters(model, dict(request.parameters))
        await self._controller.load(model, call.remaining_s)
        return b""

    async def unload(self, body: bytes, call: Call) -> bytes:
        """Takes a model out of memory, with the ensembles that need it."""
        request = parse(service_pb2.RepositoryModelUnloadRequest, body)
        await self._controller.unload(self._managed(request, call, "unload"))
        return b""

    def _managed(self, request: Any, call: Call, verb: str) -> str:
        model = str(request.model_name)
        self._desk.check_model(call.tenant, model)
        self._desk.check_manage(call.tenant, f"{verb} {model}")
        return model
