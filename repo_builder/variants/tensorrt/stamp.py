"""The stamp of an engine built on this machine."""

from __future__ import annotations

from repo_builder.variants.tensorrt.machine import Machine
from tritonfleet.server.engines import Profile, Stamp
from tritonfleet.spec.export import TensorRTVariant


def stamp(variant: TensorRTVariant, machine: Machine, profiles: tuple[Profile, ...]) -> Stamp:
    """What a later server is to know of an engine."""
    assert machine.gpu is not None and machine.tensorrt is not None, "nothing is missing"
    return Stamp(
        tensorrt=machine.tensorrt,
        gpu=machine.gpu.name,
        compute_capability=machine.gpu.compute_capability,
        driver=machine.gpu.driver,
        platform=machine.platform,
        precision=variant.precision,
        profiles=profiles,
        version_compatible=variant.version_compatible,
        hardware_compatibility=variant.hardware_compatibility,
        workspace_bytes=variant.workspace,
        optimization_level=variant.optimization_level,
    )
