"""The scratch server: a real tritonserver that meets every model before the fleet does."""
