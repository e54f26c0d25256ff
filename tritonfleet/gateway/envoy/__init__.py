"""Envoy as the data plane: its configuration, its process, and what it says of itself."""
