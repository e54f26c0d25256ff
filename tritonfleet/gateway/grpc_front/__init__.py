"""The activator's gRPC: every call that Envoy does not send straight to a tritonserver.

Bytes in and bytes out: what is computed by Triton leaves as Triton wrote it.
"""

from tritonfleet.gateway.grpc_front.front import GrpcFront

__all__ = ["GrpcFront"]
