"""Starting a tritonserver, and knowing where it listens and whether it lives."""
