"""Where the native ``onnxruntime`` backend lies; tritonserver opens it, Python never does."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

__version__ = version("tritonfleet-onnxruntime")


def library() -> Path:
    """The shared library, under the name that Triton looks for."""
    return Path(__file__).with_name("libtriton_onnxruntime.so")
