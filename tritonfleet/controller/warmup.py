"""Proves by an inference that a freshly loaded model answers.

The index alone proves nothing: a model whose process has died still says READY. The first
inference also touches the memory the model will need, so that it is measured in full.
"""

from __future__ import annotations

import math
from typing import Any

from tritonclient.grpc import service_pb2

from tritonfleet.errors import LoadFailed
from tritonfleet.server.client import InferenceRefused, TritonClient
from tritonfleet.server.pbtxt import datatype
from tritonfleet.server.tensors import DYNAMIC_SIZE, element_bytes, encode_texts

_TEXT = "warm up"
# What Triton says of a python-backend model whose process is gone.
_DEAD = ("is not healthy", "has no available versions", "is not found")


def warmup_request(config: Any) -> Any:
    """A ``ModelInferRequest`` of zeros (and a short text) that fits a ``ModelConfig``."""
    request = service_pb2.ModelInferRequest(model_name=config.name)
    for tensor in config.input:
        if tensor.optional:
            continue
        shape = [size if size > 0 else DYNAMIC_SIZE for size in tensor.dims]
        if config.max_batch_size > 0:
            shape = [1, *shape]
        kind = datatype(tensor.data_type)
        request.inputs.add(name=tensor.name, datatype=kind, shape=shape)
        request.raw_input_contents.append(_zeros(kind, math.prod(shape)))
    return request


def _zeros(kind: str, count: int) -> bytes:
    if kind == "BYTES":
        return encode_texts([_TEXT] * count)
    return bytes(element_bytes(kind) * count)


async def prove(client: TritonClient, config: Any, timeout_s: float) -> None:
    """Runs one inference; LoadFailed if nobody executes it.

    A model that refuses the made-up input has still answered, and so has proved itself. Sequence
    and decoupled models need more than one message; there the index must do.
    """
    if config.HasField("sequence_batching") or config.model_transaction_policy.decoupled:
        return
    try:
        await client.infer(warmup_request(config), timeout_s)
    except InferenceRefused as error:
        if any(sign in error.reason for sign in _DEAD):
            raise LoadFailed(
                config.name, f"it loaded but does not answer: {error.reason}"
            ) from error
