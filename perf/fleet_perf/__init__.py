"""Measures a running fleet against Triton itself. The serving side does not know this package."""
