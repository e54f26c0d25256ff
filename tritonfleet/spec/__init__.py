"""What a fleet is: the typed form of ``fleet.yaml``, and how it is read."""

from tritonfleet.spec.fleet import (
    EnsembleSource,
    FleetSpec,
    HuggingFaceSource,
    ModelSpec,
    PythonSource,
    ServerSpec,
    ServingSpec,
    TensorSpec,
    TokenizerSource,
    TorchModuleSource,
)
from tritonfleet.spec.load import load_fleet

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
