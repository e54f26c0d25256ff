"""How a loaded PyTorch module becomes an artifact that Triton can load."""
