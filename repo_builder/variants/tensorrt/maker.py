"""From an ONNX file to ``model.plan`` with its stamp."""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from repo_builder.exporters.base import Made, VariantMaker, VariantOrder
from repo_builder.signature import Signature
from repo_builder.variants.tensorrt.engine import build_engine, can_choose_bf16
from repo_builder.variants.tensorrt.machine import Machine, probe_machine, require
from repo_builder.variants.tensorrt.profiles import optimization_profiles
from repo_builder.variants.tensorrt.stamp import stamp
from tritonfleet.errors import VariantFailed
from tritonfleet.server.engines import write_stamp
from tritonfleet.spec.export import TensorRTVariant

_SERVED_TYPES = ("FP32", "FP16", "INT8", "INT32", "INT64", "UINT8", "BOOL")


class TensorRTVariantMaker(VariantMaker[TensorRTVariant]):
    """Builds engines where there is a GPU, and says what is missing where not."""

    backend: ClassVar[str] = "tensorrt"
    artifact_name: ClassVar[str] = "model.plan"

    def __init__(self, probe: Callable[[], Machine] = probe_machine) -> None:
        self._probe = probe

    def make(self, order: VariantOrder[TensorRTVariant]) -> Made:
        """The engine, stamped; mistakes in the fleet file are told before what is missing."""
        variant = order.spec
        _check_types(order)
        profiles = optimization_profiles(
            order.model, order.signature, variant.profiles, order.max_batch_size, order.longest
        )
        machine = self._probe()
        require(machine, order.model, f"'{variant.label}' cannot be built", VariantFailed)
        marks = stamp(variant, machine, profiles)
        trt = _imported(order)
        with _typed_onnx(order) as onnx:
            cache = timing_cache(order.cache, machine)
            engine = build_engine(trt, order.model, variant, onnx, profiles, cache)
        artifact = order.folder / self.artifact_name
        artifact.write_bytes(engine)
        write_stamp(order.folder, marks)
        return Made(artifact, marks.facts())

    def signature(self, order: VariantOrder[TensorRTVariant], made: Made) -> Signature:
        """As the ONNX file's: names, types and dynamic dimensions pass through."""
        return order.signature


def timing_cache(folder: Path, machine: Machine) -> Path:
    """Where timings are kept: they hold for one TensorRT version on one kind of GPU."""
    assert machine.gpu is not None, "nothing is missing"
    parts = (machine.tensorrt or "", machine.gpu.name, machine.gpu.compute_capability)
    return folder / f"tensorrt-{re.sub(r'[^A-Za-z0-9.-]+', '_', '-'.join(parts))}.timing"


def _check_types(order: VariantOrder[TensorRTVariant]) -> None:
    for tensor in order.signature.tensors:
        if tensor.dtype not in _SERVED_TYPES:
            cause = f"'{tensor.name}' is {tensor.dtype}, which TensorRT engines do not take or give"
            raise VariantFailed(
                order.model, cause, "Cast it inside the model, or publish its ONNX."
            )


def _imported(order: VariantOrder[TensorRTVariant]) -> Any:
    # Not an import statement: it has no types, and is installed on few machines.
    tensorrt: Any = importlib.import_module("tensorrt")
    if order.spec.precision == "bf16" and not can_choose_bf16(tensorrt):
        cause = f"TensorRT {tensorrt.__version__} takes precision from the ONNX file only"
        hint = "Nothing here writes bf16 into it: use precision fp16, or a TensorRT 10."
        raise VariantFailed(order.model, cause, hint)
    return tensorrt


@contextmanager
def _typed_onnx(order: VariantOrder[Any]) -> Iterator[Path]:
    """The file in the precision asked for; gone afterwards, where it had to be made."""
    if order.spec.precision != "fp16":
        yield order.onnx
        return
    from repo_builder.variants.float16 import to_float16

    with tempfile.TemporaryDirectory(prefix="fp16-") as folder:
        half = Path(folder) / order.onnx.name
        to_float16(order, order.onnx, half)
        yield half
