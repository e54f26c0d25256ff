"""Proves by an inference that a freshly loaded model answers.

The index alone proves nothing: a model whose process has died still says READY. The first
inference also touches the memory the model will need, so that it is measured in full.
"""

from __future__ import annotations

from typing import Any

from tritonfleet.errors import LoadFailed
from tritonfleet.server.client import InferenceRefused, TritonClient
from tritonfleet.server.inference import inference_request

# What Triton says of a python-backend model whose process is gone.
_DEAD = ("is not healthy", "has no available versions", "is not found")


async def prove(client: TritonClient, config: Any, timeout_s: float, version: str = "") -> None:
    """Runs one inference; LoadFailed if nobody executes it.

    A model that refuses the made-up input has still answered, and so has proved itself. Sequence
    and decoupled models need more than one message; there the index must do.
    """
    if config.HasField("sequence_batching") or config.model_transaction_policy.decoupled:
        return
    try:
        await client.infer(inference_request(config, {}, version=version), timeout_s)
    except InferenceRefused as error:
        if any(sign in error.reason for sign in _DEAD):
            raise LoadFailed(
                config.name, f"it loaded but does not answer: {error.reason}"
            ) from error
