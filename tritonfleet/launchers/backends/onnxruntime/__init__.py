"""The backend ``onnxruntime`` for a tritonserver that has only the python backend.

The same config.pbtxt runs here and, natively, in the official container. It computes on the host;
a GPU is the container's business. One process of its own runs this for each model instance, and
the time its imports take is a good part of every cold start: only what is needed is imported.
"""
