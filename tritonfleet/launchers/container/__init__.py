"""A tritonserver in a container: NVIDIA's image, our own for machines without a GPU, or any."""

from tritonfleet.launchers.container.launcher import ContainerLauncher

__all__ = ["ContainerLauncher"]
