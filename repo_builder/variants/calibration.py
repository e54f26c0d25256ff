"""Real requests by which static quantization finds the ranges of activations."""

from __future__ import annotations

from collections.abc import Sequence

from repo_builder.exporters.base import VariantOrder
from repo_builder.judging.reference import Tensors
from tritonfleet.errors import VariantFailed
from tritonfleet.spec.export import OnnxVariant


def chosen(order: VariantOrder[OnnxVariant]) -> tuple[Tensors, ...]:
    """The first requests with as many rows as the spec asks for; VariantFailed without any."""
    found: list[Tensors] = []
    rows = 0
    for request in order.calibration:
        if rows >= order.spec.calibration_samples:
            break
        found.append(request)
        rows += len(next(iter(request.values()))) if order.signature.batchable else 1
    if not found:
        cause = "static int8 needs real requests to calibrate on, and there are none"
        hint = "Name a file of them in 'export.examples', or use 'quantize: dynamic'."
        raise VariantFailed(order.model, cause, hint)
    return tuple(found)


class CalibrationData:
    """Requests, as ONNX Runtime's calibrators want to read them.

    They ask for a range of them first, then for one after the other until there is none.
    """

    def __init__(self, requests: Sequence[Tensors]) -> None:
        self._requests = requests
        self._rest = iter(requests)

    def __len__(self) -> int:
        return len(self._requests)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Begins anew, with these only."""
        self._rest = iter(self._requests[start_index:end_index])

    def get_next(self) -> Tensors | None:
        """The next request, or None."""
        return next(self._rest, None)
