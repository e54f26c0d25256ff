"""The measurements: each a short burst against one system, to be taken in turns with others."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fleet_perf.peers.client import Client, Reply
from fleet_perf.peers.figures import Cold, Memory, Trace, Warm, WarmBurst
from fleet_perf.peers.job import Job, cold_order
from tritonfleet.errors import Unstable

_ERRORS_KEPT = 20
_PATIENCE = 3
"""Requests for each cold start that is wanted, before a burst is given up."""
SETTLE_S = 1.0
"""What a system does after an answer (caches, collectors, last threads) is over by then."""


@dataclass(slots=True)
class Subject:
    """A system that is up, and what has been found of it so far."""

    client: Client
    job: Job
    order: Iterator[str] = field(init=False)
    cold_latency_s: list[float] = field(default_factory=list)
    cold_cpu_s: float = 0.0
    slices_s: list[float] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    loads: int = 0
    bursts: dict[int, list[WarmBurst]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.order = cold_order(self.job)

    @property
    def name(self) -> str:
        """Of the system."""
        return self.client.running.name

    async def go_round(self) -> None:
        """Asks for every model once, so that the last ones are in memory and the first are not."""
        await self.client.must_answer(self.job.names)

    async def cold_burst(self, count: int) -> None:
        """First answers one after the other; Unstable when hardly any model was absent.

        A model that was in memory after all is passed over: our controller keeps one that was slow
        to load for four times as long.
        """
        before, wanted = self.client.running.tree.cpu_s(), len(self.cold_latency_s) + count
        for model in itertools.islice(self.order, _PATIENCE * count):
            (reply,) = await self.client.must_answer([model])
            if reply.absent:
                self.cold_latency_s.append(reply.latency_s)
            if len(self.cold_latency_s) == wanted:
                break
        else:
            raise Unstable(self.name, "models were in memory that should not have been")
        self.cold_cpu_s += self.client.running.tree.cpu_s() - before

    async def trace_slice(self, models: Sequence[str]) -> None:
        """A part of the trace by all clients; errors count, and do not end it."""
        loads, begun = self.client.running.loads(), time.perf_counter()
        replies = await self.client.ask_all(models, self.job.clients)
        self.slices_s.append(time.perf_counter() - begun)
        self.replies += replies
        waited = sum(reply.absent for reply in replies)
        self.loads += waited if loads is None else (self.client.running.loads() or 0) - loads

    async def warm_burst(self, count: int, clients: int) -> None:
        """Requests for the models in memory, in turn; Unstable when one was not."""
        resident = self.job.names[-self.job.room :]
        models = [resident[index % len(resident)] for index in range(count)]
        await self.client.must_answer(models[: len(resident)])
        before, begun = self.client.running.tree.cpu_s_by_name(), time.perf_counter()
        replies = await self.client.must_answer(models, clients)
        elapsed_s = time.perf_counter() - begun
        after = self.client.running.tree.cpu_s_by_name()
        cpu_s = {name: spent - before.get(name, 0.0) for name, spent in after.items()}
        for reply in replies:
            if reply.absent:
                raise Unstable(self.name, f"{reply.model} was not in memory, and should have been")
        latency_s = tuple(reply.latency_s for reply in replies)
        burst = WarmBurst(len(replies), sum(cpu_s.values()), elapsed_s, latency_s, cpu_s)
        self.bursts.setdefault(clients, []).append(burst)

    async def idle_cores(self, seconds: float) -> float:
        """Cores that it keeps busy while nobody asks for anything."""
        before, begun = self.client.running.tree.cpu_s(), time.perf_counter()
        await asyncio.sleep(seconds)
        elapsed_s = time.perf_counter() - begun
        return (self.client.running.tree.cpu_s() - before) / elapsed_s

    def cold(self) -> Cold:
        """Everything that the cold bursts have shown."""
        return Cold(tuple(self.cold_latency_s), self.cold_cpu_s)

    def trace(self) -> Trace:
        """Everything that the slices have shown."""
        errors = [f"{one.model}: {one.error}" for one in self.replies if one.error is not None]
        return Trace(
            slices_s=tuple(self.slices_s),
            requests=len(self.replies),
            loads=self.loads,
            errors=tuple(errors[:_ERRORS_KEPT]),
        )

    def warm(self) -> dict[int, Warm]:
        """Everything that the warm bursts have shown, by the number of clients."""
        return {clients: Warm(clients, tuple(found)) for clients, found in self.bursts.items()}


async def fill(client: Client, models: Sequence[str]) -> Memory:
    """Memory after one model has answered and after all have; nothing else may run meanwhile."""
    tree = client.running.tree
    await client.must_answer(models[:1])
    await asyncio.sleep(SETTLE_S)
    empty = tree.pss_bytes()
    await client.must_answer(models)
    for reply in await client.must_answer(models):
        if reply.absent:
            raise Unstable(client.running.name, f"it does not hold {len(models)} models")
    await asyncio.sleep(SETTLE_S)
    return Memory(len(models), tree.pss_bytes(), empty)
