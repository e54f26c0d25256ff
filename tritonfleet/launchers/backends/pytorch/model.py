"""What Triton's python backend loads as the backend ``pytorch``: requests in, responses out.

Knows Triton's Python API. How the file is opened is told in module.py; how requests share a run is
the onnxruntime backend's. This file is copied into a backend directory; its imports come from the
installed package, in the same interpreter.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from tritonfleet.launchers.backends.onnxruntime.batching import RequestFailed, Work, answer, bounded
from tritonfleet.launchers.backends.pytorch.module import TorchScriptModule


class TritonPythonModel:
    """One instance of one TorchScript model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the model; whatever is wrong becomes the reason of the failed load."""
        config = json.loads(args["model_config"])
        directory = Path(args["model_repository"], args["model_version"])
        try:
            self._module = TorchScriptModule(config, directory)
        except ValueError as error:
            raise pb_utils.TritonModelException(bounded(str(error))) from None
        self._batched = config["max_batch_size"] > 0

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order; a failed one never fails its neighbours."""
        works = [_work(request) for request in requests]
        outcomes = answer(works, self._module.run, batched=self._batched)
        return [_response(outcome) for outcome in outcomes]


def _work(request: Any) -> Work:
    inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    return Work(inputs, tuple(request.requested_output_names()))


def _response(outcome: Any) -> Any:
    if isinstance(outcome, RequestFailed):
        # TorchScript tells a request's fault and the model's alike.
        error = pb_utils.TritonError(outcome.message, pb_utils.TritonError.INTERNAL)
        return pb_utils.InferenceResponse(output_tensors=[], error=error)
    tensors = [pb_utils.Tensor(name, array) for name, array in outcome.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)
