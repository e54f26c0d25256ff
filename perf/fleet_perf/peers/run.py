"""One comparison from start to end: every system alone for its memory, then all at once in turns.

Knows the order of things. A system that fails drops out; the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fleet_perf import environment
from fleet_perf.fleet import RunningFleet
from fleet_perf.peers.client import Client
from fleet_perf.peers.figures import Memory, SystemFigures
from fleet_perf.peers.job import Effort, Job, slices, zipf_trace
from fleet_perf.peers.measure import Subject, fill
from fleet_perf.peers.repository import TINY, write_repository
from fleet_perf.peers.results import PeerResults
from fleet_perf.peers.systems import NATIVE, Budget, FleetSystem, Running, System
from fleet_perf.warm import Say
from tritonfleet.errors import FleetError

PLENTY = 2**40
"""Room for everything, in bytes."""
SLACK = 0.5
"""Of a footprint, beyond what the wanted number of models takes: one more does not fit, and one
that grows a little drives nobody out."""


@dataclass(frozen=True, slots=True)
class PeersOrder:
    """What is to be compared, on which job."""

    systems: tuple[System, ...]
    job: Job
    effort: Effort
    cache: Path
    """For the peers' environments, which stay, and the models, which do not."""
    quick: bool = False


async def compare(order: PeersOrder, say: Say, warn: Say) -> PeerResults:
    """Measures what is ordered; what could not be is in the results."""
    describing = environment.describe()  # before our own load shows in its load average
    busy = environment.busy(describing)
    if busy:
        warn(busy)
    trace = zipf_trace(order.job, order.effort.trace_requests)
    results = PeerResults(order.job, order.effort, trace, describing, quick=order.quick)
    with scratch(order.cache) as folder:
        await _Comparison(order, results, folder, say, warn).run()
    return results


@contextlib.contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """A folder for models, fleet files and logs, removed with the block."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="run-", dir=cache.resolve(), ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


class _Comparison:
    def __init__(
        self, order: PeersOrder, results: PeerResults, folder: Path, say: Say, warn: Say
    ) -> None:
        self._job, self._effort, self._order = order.job, order.effort, order
        self._results, self._folder, self._say, self._warn = results, folder, say, warn
        self._models = folder / "models"
        self._random = random.Random(order.job.seed)
        self._subjects: list[Subject] = []

    async def run(self) -> None:
        systems = [system for system in self._order.systems if await self._prepared(system)]
        self._say("writing the models …")
        await asyncio.to_thread(write_repository, self._models, self._job)
        systems = [system for system in systems if await self._alone(system)]
        await self._tiny(systems)
        async with contextlib.AsyncExitStack() as stack:
            for system in systems:
                with self._failures():
                    client = await stack.enter_async_context(self._up(system, "together"))
                    self._subjects.append(Subject(client, self._job))
            await self._take_turns()

    # -- one system at a time --------------------------------------------------------------------

    async def _prepared(self, system: System) -> bool:
        with self._failures():
            await asyncio.to_thread(system.prepare, self._order.cache, self._say)
            self._results.systems[system.name] = SystemFigures(
                system.name, system.ours, system.settings, system.packages()
            )
        return system.name in self._results.systems

    async def _alone(self, system: System) -> bool:
        """Memory, with nobody there to share pages with."""
        found = self._results.systems[system.name]
        with self._failures():
            self._say(f"{system.name}: memory with {self._job.room} models …")
            async with self._up(system, "alone") as client:
                memory = await fill(client, self._job.names[: self._job.room])
                footprint = await _footprint(client.running)
                found.memory = replace(memory, footprint=footprint)
        return found.memory is not None

    async def _tiny(self, systems: Iterable[System]) -> None:
        for system in systems:
            if isinstance(system, FleetSystem) and system.name == NATIVE:
                with self._failures():
                    self._results.tiny_bytes = (await self._many_tiny(system)).bytes

    async def _many_tiny(self, system: FleetSystem) -> Memory:
        names = self._job.tiny_names
        self._say(f"{system.name}: memory with {len(names)} tiny models …")
        folder = self._own_folder(system, "tiny")
        budget = Budget(PLENTY, footprint=1)
        async with system.serving(names, self._models, folder, budget) as running:
            async with Client(running, replace(self._job, network=TINY)) as client:
                await client.until_answers(names[0], folder)
                return await fill(client, names)

    @contextlib.asynccontextmanager
    async def _up(self, system: System, occasion: str) -> AsyncIterator[Client]:
        self._say(f"{system.name}: starting …")
        folder, budget = self._own_folder(system, occasion), self._budget(system)
        async with system.running(self._job, self._models, folder, budget) as running:
            async with Client(running, self._job) as client:
                await client.until_answers(self._job.names[0], folder)
                yield client

    def _own_folder(self, system: System, occasion: str) -> Path:
        folder = self._folder / f"{system.name}-{occasion}"
        folder.mkdir()
        return folder

    def _budget(self, system: System) -> Budget:
        """Of a fleet: room for everything, until a model's footprint is known."""
        memory = self._results.systems[system.name].memory
        if memory is None or memory.footprint is None:
            return Budget(PLENTY, footprint=1)
        return Budget(int((self._job.room + SLACK) * memory.footprint), memory.footprint)

    # -- all at once, in turns -------------------------------------------------------------------

    async def _take_turns(self) -> None:
        await self._cold()
        await self._trace()
        await self._warm()
        await self._at_rest()

    async def _cold(self) -> None:
        await self._each("a round", Subject.go_round)
        for turn in range(self._effort.cold_bursts):
            what = f"cold starts, burst {turn + 1} of {self._effort.cold_bursts}"
            await self._each(what, lambda one: one.cold_burst(self._effort.cold_per_burst))
        for subject in self._subjects:
            self._figures(subject).cold = subject.cold()

    async def _trace(self) -> None:
        await self._each("a round", Subject.go_round)
        parts = slices(self._results.trace, self._effort.trace_slice)
        for turn, part in enumerate(parts):
            await self._each(f"trace, part {turn + 1} of {len(parts)}", _slice(part))
        for subject in self._subjects:
            self._figures(subject).trace = subject.trace()

    async def _warm(self) -> None:
        await self._each("a round", Subject.go_round)
        for turn in range(self._effort.warm_bursts):
            for clients in self._random.sample((1, self._job.clients), 2):
                what = f"warm, {clients} at once, burst {turn + 1} of {self._effort.warm_bursts}"
                await self._each(what, _warm(self._effort.warm_per_burst, clients))
        for subject in self._subjects:
            self._figures(subject).warm = subject.warm()

    async def _at_rest(self) -> None:
        self._say("idle …")
        idle = [subject.idle_cores(self._effort.idle_s) for subject in self._subjects]
        for subject, cores in zip(self._subjects, await asyncio.gather(*idle), strict=True):
            self._figures(subject).idle_cores = cores
            self._figures(subject).end_bytes = subject.client.running.tree.pss_bytes()

    async def _each(self, what: str, action: Callable[[Subject], Awaitable[None]]) -> None:
        """Every system once, in an order drawn anew; who fails drops out."""
        for subject in self._random.sample(self._subjects, len(self._subjects)):
            self._say(f"{subject.name}: {what} …")
            failed_before = len(self._results.failed)
            with self._failures():
                await action(subject)
            if len(self._results.failed) > failed_before:
                self._subjects.remove(subject)

    def _figures(self, subject: Subject) -> SystemFigures:
        return self._results.systems[subject.name]

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """What goes wrong with one system is noted, and is no reason to end."""
        try:
            yield
        except FleetError as error:
            self._results.failed.append(error)
            self._warn(str(error))


def _slice(part: Sequence[str]) -> Callable[[Subject], Awaitable[None]]:
    return lambda subject: subject.trace_slice(part)


def _warm(count: int, clients: int) -> Callable[[Subject], Awaitable[None]]:
    return lambda subject: subject.warm_burst(count, clients)


async def _footprint(running: Running) -> int | None:
    """The most that a fleet's controller charges for a model in memory."""
    if running.control is None:
        return None
    async with RunningFleet(running.control, running.url) as fleet:
        models = (await fleet.status())["models"]
    charged = [int(one["footprint_bytes"]) for one in models if one["state"] == "READY"]
    return max(charged)
