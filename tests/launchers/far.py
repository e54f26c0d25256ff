"""A server that somebody else runs, as far as its launcher asks; it may restart."""

from __future__ import annotations

import grpc
import grpc.aio
from aiohttp import web
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritonfleet.launchers.embedded import free_ports

HOST = "127.0.0.1"


class FarServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Live over HTTP, with an index and the refusals of a tritonserver over gRPC."""

    def __init__(self, *, secret="", explicit=True):
        self.secret, self.explicit = secret, explicit
        self.status, self.headers, self.ready = 200, {}, []
        self.looked_at = 0
        ports = free_ports()
        self.http, self.grpc = f"{HOST}:{ports.http}", f"{HOST}:{ports.grpc}"
        self._port = ports.http

    async def start(self):
        app = web.Application()
        app.router.add_get("/v2/health/live", self._live)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._port, reuse_address=True).start()
        self._grpc = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._grpc)
        self._grpc.add_insecure_port(self.grpc)
        await self._grpc.start()

    async def stop(self):
        await self._runner.cleanup()
        await self._grpc.stop(0)

    async def _live(self, _):
        return web.Response(status=self.status, headers=self.headers)

    async def RepositoryIndex(self, _, context):
        await self._check(context)
        self.looked_at += 1
        index = service_pb2.RepositoryIndexResponse()
        for name in self.ready:
            index.models.add(name=name, version="1", state="READY")
        return index

    async def RepositoryModelUnload(self, _, context):
        if not self.explicit:
            reason = "explicit model load / unload is not allowed if polling is enabled"
            await context.abort(grpc.StatusCode.UNAVAILABLE, reason)
        return service_pb2.RepositoryModelUnloadResponse()

    async def _check(self, context):
        header = "triton-grpc-protocol-tritonfleet-admin"
        given = dict(context.invocation_metadata()).get(header, "")
        if self.secret and given != self.secret:
            reason = f"This protocol is restricted, expecting header '{header}'"
            await context.abort(grpc.StatusCode.UNAVAILABLE, reason)
