"""Triton backends that the embedded tritonserver lacks, written for its python backend."""
