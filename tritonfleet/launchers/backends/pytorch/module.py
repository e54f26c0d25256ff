"""Opens a TorchScript file the way config.pbtxt asks, and runs it.

Knows PyTorch and the model configuration; not requests, and not Triton's Python API. What is wrong
is told by ValueError. TorchScript files do not say what they take, so config.pbtxt is believed, in
the order in which it lists inputs and outputs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritonfleet.launchers.backends.onnxruntime.batching import Arrays

Config: TypeAlias = Mapping[str, Any]
_INSTALL = "Install it beside tritonfleet: pip install 'tritonfleet[build]'"
_THREADS = "INTRA_OP_THREAD_COUNT"


class TorchScriptModule:
    """A loaded file; run as the onnxruntime backend's session is."""

    def __init__(self, config: Config, version_directory: Path) -> None:
        self._torch = _pytorch()
        # One, as with the onnxruntime backend: many models share few cores.
        self._torch.set_num_threads(_threads(config))
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self._module = _load(self._torch, _file(config, version_directory))

    def run(self, outputs: Sequence[str], inputs: Arrays) -> Sequence[NDArray[Any]]:
        """The named outputs for these inputs; ValueError for a request that it cannot be run on."""
        # Copied where they cannot be written to: PyTorch has no read-only tensors.
        arrays = [np.require(inputs[name], requirements=["C", "W"]) for name in self._inputs]
        with self._torch.inference_mode():
            result = self._module(*map(self._torch.from_numpy, arrays))
        values = (result,) if isinstance(result, self._torch.Tensor) else tuple(result)
        if len(values) != len(self._outputs):
            raise RuntimeError(
                f"the module gives {len(values)} outputs, config.pbtxt has {len(self._outputs)}"
            )
        found = dict(zip(self._outputs, values, strict=True))
        return [found[name].numpy() for name in outputs]


def _pytorch() -> Any:
    # By its name: what serves ONNX models must not need PyTorch, only what serves TorchScript.
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ValueError(f"this server's Python has no PyTorch ({error}). {_INSTALL}") from None


def _threads(config: Config) -> int:
    text = config.get("parameters", {}).get(_THREADS, {}).get("string_value", "1")
    if not text.isdigit() or int(text) < 1:
        raise ValueError(
            f"parameter '{_THREADS}' is '{text}' in config.pbtxt; it must be 1 or more"
        )
    return int(text)


def _file(config: Config, version_directory: Path) -> Path:
    path = version_directory / (config.get("default_model_filename") or "model.pt")
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    return path


def _load(torch: Any, path: Path) -> Any:
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"PyTorch cannot open {path}: {told[0]}") from error
