"""Models in, a Triton model repository out."""
