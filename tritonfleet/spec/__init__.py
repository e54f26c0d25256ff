"""What a fleet is: the typed form of ``fleet.yaml``, and how it is read."""

from tritonfleet.spec.fleet import FleetSpec, ModelSpec, ServerSpec
from tritonfleet.spec.load import load_fleet
from tritonfleet.spec.serving import ServingSpec
from tritonfleet.spec.sources import (
    EnsembleSource,
    HuggingFaceSource,
    PythonSource,
    TensorSpec,
    TokenizerSource,
    TorchModuleSource,
)

__all__ = [
    "EnsembleSource",
    "FleetSpec",
    "HuggingFaceSource",
    "ModelSpec",
    "PythonSource",
    "ServerSpec",
    "ServingSpec",
    "TensorSpec",
    "TokenizerSource",
    "TorchModuleSource",
    "load_fleet",
]
