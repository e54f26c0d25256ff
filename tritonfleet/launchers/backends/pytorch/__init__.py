"""The backend ``pytorch`` for a tritonserver that has only the python backend.

The same config.pbtxt runs here and, natively, in the official container, where LibTorch computes.
Here this environment's PyTorch does, on the host, in one process for each model instance.
"""
