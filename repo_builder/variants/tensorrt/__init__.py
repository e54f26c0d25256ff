"""TensorRT engines of ONNX files: built, stamped with what they are bound to, and run."""

from repo_builder.variants.tensorrt.maker import TensorRTVariantMaker
from repo_builder.variants.tensorrt.runner import TensorRTRunner

__all__ = ["TensorRTRunner", "TensorRTVariantMaker"]
