"""Lets a fresh tritonserver load a model of no account, so that the first real one need not wait.

Triton opens a backend with the first model that needs it; ONNX Runtime's libraries and threads
cost that model some 110 ms (measured), which nobody waits for while the server starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct

from tritonclient.grpc import service_pb2

from tritonfleet.errors import FleetError
from tritonfleet.server.client import TritonClient
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.server.events import ModelEvents

log = logging.getLogger(__name__)
MODEL = "tritonfleet_rehearsal"
# y = x over one float, as an ONNX file.
IDENTITY = (
    b'\x08\x08\x12\x00:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08'
    b"\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00"
    b"\x10\r"
)
_TENSOR = {"data_type": "TYPE_FP32", "dims": [1]}
_CONFIG = {
    "name": MODEL,
    "backend": "onnxruntime",
    "input": [{"name": "x", **_TENSOR}],
    "output": [{"name": "y", **_TENSOR}],
    "instance_group": [{"count": 1}],
}
_TIMEOUT_S = 10.0


async def rehearse(name: str, endpoint: Endpoint, events: ModelEvents) -> None:
    """Loads, asks and unloads a model that leaves no trace in the index; a failure is no harm."""
    client = TritonClient(name, endpoint)
    try:
        files = {"1/model.onnx": IDENTITY}
        await client.load(MODEL, _TIMEOUT_S, config=json.dumps(_CONFIG), files=files)
        # An unload that follows a load at once can crash the server; after an answer it does not.
        await client.infer(_request(), _TIMEOUT_S)
        gone = events.departure(MODEL)
        await client.unload(MODEL)
        await asyncio.wait_for(gone, _TIMEOUT_S)
    except (FleetError, asyncio.TimeoutError) as error:
        log.warning("server=%s could not rehearse a load: %r", name, error)
    finally:
        with contextlib.suppress(FleetError):
            await client.close()


def _request() -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    request.raw_input_contents.append(struct.pack("<f", 1.0))
    return request
