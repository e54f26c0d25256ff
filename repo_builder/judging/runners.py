"""Runs artifacts outside Triton: named arrays in, named arrays out.

One runner for each backend whose runtime can be had as a library; ``open_runner`` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from repo_builder.causes import root_cause
from repo_builder.judging.reference import Array, Tensors
from repo_builder.signature import Signature
from tritonfleet.errors import BuildError, ParityFailed
from tritonfleet.plugins import lookup

_threads = 0


def use_threads(count: int) -> None:
    """Sets how many threads ONNX Runtime computes with in this process; 0 is one for each core.

    As ``torch.set_num_threads`` does for PyTorch: who is compared must have as many.
    """
    global _threads
    _threads = count


class Runner(Protocol):
    """An artifact that can be asked. Made by ``open_runner``; closed by letting go of it."""

    def run(self, inputs: Mapping[str, Array]) -> Tensors:
        """The outputs; whatever the runtime raises passes through."""


class OnnxRunner:
    """ONNX Runtime on the CPU."""

    def __init__(
        self, model: str, artifact: Path, signature: Signature, *, optimize: bool = True
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = _threads
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        providers = ["CPUExecutionProvider"]
        try:
            session = onnxruntime.InferenceSession(str(artifact), options, providers=providers)
        # onnxruntime's exceptions have no common base that it exports.
        except Exception as error:
            cause = f"ONNX Runtime does not load the artifact: {root_cause(error)}"
            raise ParityFailed(model, cause, "Try another 'export.opset'.") from error
        self._session: Any = session
        self._names = [output.name for output in session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> Tensors:
        """All outputs."""
        values = self._session.run(None, dict(inputs))
        return {name: np.asarray(v) for name, v in zip(self._names, values, strict=True)}


def open_runner(backend: str, model: str, artifact: Path, signature: Signature) -> Runner:
    """The artifact, ready to be asked; BuildError when it does not load or has no runtime here."""
    runner: Runner = lookup("runners", backend)(model, artifact, signature)
    return runner


def run_case(model: str, runner: Runner, inputs: Mapping[str, Array], where: str) -> Tensors:
    """One execution; ParityFailed, with the case, when it fails."""
    try:
        return runner.run(inputs)
    except BuildError:
        raise
    except Exception as error:
        cause = f"the artifact fails at {where}: {root_cause(error)}"
        hint = "A size it was not made for? Set 'parity.dimensions' and 'parity.batch_sizes'."
        raise ParityFailed(model, cause, hint) from error
