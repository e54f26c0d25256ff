"""What Triton's python backend loads as the backend ``onnxruntime``: requests in, responses out.

Knows Triton's Python API. How the file is opened is told in session.py, how requests share a run
in batching.py. This file is copied into a backend directory; its imports come from the installed
package, in the same interpreter.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonfleet.launchers.backends.onnxruntime import lean_imports

lean_imports.defer()  # before anything imports numpy

import numpy as np  # noqa: E402 - see above
import triton_python_backend_utils as pb_utils  # noqa: E402 - imports numpy

from tritonfleet.launchers.backends.onnxruntime.batching import (  # noqa: E402 - imports numpy
    Outcome,
    RequestFailed,
    Work,
    answer,
    bounded,
)
from tritonfleet.launchers.backends.onnxruntime.release import on_release  # noqa: E402 - together
from tritonfleet.launchers.backends.onnxruntime.session import (  # noqa: E402 - imports numpy
    ReleasableSession,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TritonPythonModel:
    """One instance of one ONNX model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the model; whatever is wrong becomes the reason of the failed load."""
        config = json.loads(args["model_config"])
        directory = Path(args["model_repository"], args["model_version"])
        try:
            self._session = ReleasableSession(config, directory)
        except ValueError as error:
            raise pb_utils.TritonModelException(bounded(str(error))) from None
        self._batched = config["max_batch_size"] > 0
        on_release(self._session.release)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order; a failed one never fails its neighbours."""
        works = [_work(request) for request in requests]
        outcomes = answer(works, self._session.run, batched=self._batched)
        return [_response(outcome) for outcome in outcomes]


def _work(request: Any) -> Work | RequestFailed:
    try:
        inputs = {tensor.name(): _readable_text(tensor.as_numpy()) for tensor in request.inputs()}
    except UnicodeDecodeError as error:
        return RequestFailed(f"BYTES inputs must be UTF-8 text for ONNX: {error}", invalid=True)
    return Work(inputs, tuple(request.requested_output_names()))


def _readable_text(array: NDArray[Any]) -> NDArray[Any]:
    """BYTES arrive as bytes objects, of which ONNX Runtime would take the repr."""
    if array.dtype != np.object_:
        return array
    text = np.empty(array.size, dtype=np.object_)
    text[:] = [element.decode() for element in array.flat]
    return text.reshape(array.shape)


def _response(outcome: Outcome) -> Any:
    if isinstance(outcome, RequestFailed):
        code = (
            pb_utils.TritonError.INVALID_ARG if outcome.invalid else pb_utils.TritonError.INTERNAL
        )
        error = pb_utils.TritonError(outcome.message, code)
        return pb_utils.InferenceResponse(output_tensors=[], error=error)
    tensors = [pb_utils.Tensor(name, array) for name, array in outcome.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)
