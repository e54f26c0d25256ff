"""Run many models on few GPUs with NVIDIA Triton Inference Server."""
