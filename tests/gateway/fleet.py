"""A controller whose every answer is in the test's hand, and whose time is too."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

from tritonfleet.controller.controller import Lease
from tritonfleet.controller.ledger import Phase
from tritonfleet.errors import FleetSaturated, ServerUnreachable
from tritonfleet.server.endpoint import Endpoint


class Fleet:
    """Grants every lease at once, but for the models that it was given an error for."""

    def __init__(self, *, ready=(), refusals=None, members=None, failures=None, servers=None):
        self.time, self.asked, self.did, self.proved = 0.0, [], [], []
        self.endpoints = dict(servers or {})
        self.versions = {}
        self.refusals, self.ready = dict(refusals or {}), set(ready)
        members, failures = members or {}, failures or {}
        self.ledger = SimpleNamespace(
            ready_on=lambda model: "gpu0" if model in self.ready else None,
            members=lambda model: members.get(model, ()),
            phase=lambda model: Phase.READY if model in self.ready else None,
            failure=lambda model, _: failures.get(model),
        )

    def now(self):
        return self.time

    @contextlib.asynccontextmanager
    async def lease(self, model, timeout_s, *, batch=False, version=""):
        self.asked.append((model, timeout_s, batch))
        refusal = self.refusals.get(model)
        if isinstance(refusal, FleetSaturated):
            self.time += timeout_s  # it waits as long as it may
        if refusal is not None:
            raise refusal
        cold = model not in self.ready
        self.ready.add(model)
        yield Lease(
            model, "gpu0", 0.0, version, cold=cold, proved=lambda: self.proved.append(model)
        )

    async def load(self, model):
        self.did.append(("load", model))
        self.ready.add(model)

    async def unload(self, model):
        self.did.append(("unload", model))
        self.ready.discard(model)

    async def loaded_versions(self, model):
        return self.versions.get(model, (2,))

    def missing(self, model):
        self.did.append(("missing", model))
        self.ready.discard(model)

    def servers(self):
        return tuple(self.endpoints)

    def endpoint(self, server):
        if server not in self.endpoints:
            raise ServerUnreachable(server, "its address: it is down", sent=False)
        return self.endpoints[server]

    def address(self, server):
        return self.endpoint(server).http


def endpoint(address, *, pid=1):
    """A tritonserver at an address, whose management takes the word 'secret'."""
    return Endpoint(address, "", pid=pid, admin_key="admin", admin_secret="secret")
