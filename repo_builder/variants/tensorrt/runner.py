"""Runs an engine outside Triton, with PyTorch's CUDA tensors as its buffers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from repo_builder.judging.reference import Array, Tensors
from repo_builder.signature import Signature
from repo_builder.variants.tensorrt.engine import make_log
from repo_builder.variants.tensorrt.machine import Machine, probe_machine, require
from repo_builder.variants.tensorrt.profiles import fitting_profile
from tritonfleet.errors import VariantFailed
from tritonfleet.server.engines import ServerFacts, Stamp, mismatch, read_stamp
from tritonfleet.server.tensors import NUMPY_TYPES


class Device(Protocol):
    """Where the buffers of an execution live."""

    stream: int
    """The handle of the stream that everything runs on."""

    def put(self, values: Array) -> Any:
        """A copy of the values there, with a ``data_ptr``."""

    def get(self, buffer: Any) -> Array:
        """The buffer's values, once everything before has run."""


class CudaDevice:
    """The GPU, through PyTorch."""

    def __init__(self, model: str) -> None:
        import torch

        if not torch.cuda.is_available():
            cause = "the engine cannot be run: PyTorch has no CUDA here"
            raise VariantFailed(model, cause, "Install a CUDA build of PyTorch.")
        self._torch: Any = torch
        self._stream = torch.cuda.Stream()
        self.stream = int(self._stream.cuda_stream)

    def put(self, values: Array) -> Any:
        """Copied on the stream itself, so that the engine finds it there."""
        with self._torch.cuda.stream(self._stream):
            return self._torch.from_numpy(np.ascontiguousarray(values)).to("cuda")

    def get(self, buffer: Any) -> Array:
        """Waits for the stream."""
        self._stream.synchronize()
        return np.asarray(buffer.cpu().numpy())


class TensorRTRunner:
    """An engine, with its context."""

    def __init__(
        self, model: str, artifact: Path, signature: Signature, *,
        probe: Callable[[], Machine] = probe_machine,
        device: Callable[[str], Device] = CudaDevice,
    ) -> None:  # fmt: skip
        machine = probe()
        require(machine, model, "the engine cannot be run", VariantFailed)
        self._stamp = _checked_stamp(model, artifact.parent, machine)
        self._device = device(model)
        self._signature = signature
        self._engine = _load(model, artifact, self._stamp)
        self._context: Any = self._engine.create_execution_context()
        self._profile = 0

    def run(self, inputs: Mapping[str, Array]) -> Tensors:
        """All outputs; RuntimeError where the engine takes no such shapes, or fails."""
        self._choose_profile({name: values.shape for name, values in inputs.items()})
        # Kept until the end: the engine reads their memory by address.
        buffers = {name: self._device.put(values) for name, values in inputs.items()}
        for name, values in inputs.items():
            if not self._context.set_input_shape(name, tuple(values.shape)):
                raise RuntimeError(f"the engine takes no '{name}' of shape {list(values.shape)}")
        for tensor in self._signature.outputs:
            shape = tuple(self._context.get_tensor_shape(tensor.name))
            if min(shape, default=0) < 0:
                raise RuntimeError(f"the shape of '{tensor.name}' depends on values")
            empty: Array = np.empty(shape, np.dtype(NUMPY_TYPES[tensor.dtype]))
            buffers[tensor.name] = self._device.put(empty)
        for name, buffer in buffers.items():
            self._context.set_tensor_address(name, buffer.data_ptr())
        if not self._context.execute_async_v3(self._device.stream):
            raise RuntimeError("the engine failed to execute")
        return {each.name: self._device.get(buffers[each.name]) for each in self._signature.outputs}

    def _choose_profile(self, shapes: Mapping[str, Sequence[int]]) -> None:
        profile = fitting_profile(self._stamp.profiles, shapes)
        if profile is None:
            listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise RuntimeError(f"no optimisation profile of the engine takes {listed}")
        if profile != self._profile:
            self._context.set_optimization_profile_async(profile, self._device.stream)
            self._profile = profile


def _checked_stamp(model: str, folder: Path, machine: Machine) -> Stamp:
    """The engine's stamp, if it was made for this machine: what TensorRT says is no help."""
    found = read_stamp(folder)
    if found is None:
        cause = f"the engine in {folder} has no stamp that says what it was built with"
        raise VariantFailed(model, cause, "Build it again.")
    assert machine.gpu is not None, "nothing is missing"
    here = ServerFacts(machine.tensorrt, machine.gpu.compute_capability, machine.platform)
    reason = mismatch(found, here)
    if reason is not None:
        raise VariantFailed(model, f"the engine cannot be run: {reason}", "Build it again here.")
    return found


def _load(model: str, artifact: Path, stamp: Stamp) -> Any:
    # Not an import statement: it has no types, and is installed on few machines.
    tensorrt: Any = importlib.import_module("tensorrt")
    log = make_log(tensorrt)
    runtime = tensorrt.Runtime(log)
    if stamp.version_compatible:
        # Such an engine carries its own runtime, which is code; we have built it ourselves.
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(artifact.read_bytes())
    if engine is None:
        cause = f"TensorRT does not load the engine; it logged: {log.quote()}"
        raise VariantFailed(model, cause, "Build it again.")
    return engine
