"""Memory of tritonserver while models come and go, thousands of times.

A fleet of ours, told over its control API to load a model and to unload it, with a request in
between.
"""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy

from fleet_perf import environment
from fleet_perf.fleet import RunningFleet
from fleet_perf.peers.client import Client
from fleet_perf.peers.figures import MB
from fleet_perf.peers.job import Job
from fleet_perf.peers.processes import ProcessTree
from fleet_perf.peers.repository import write_repository
from fleet_perf.peers.run import PLENTY, scratch
from fleet_perf.peers.systems import Budget, FleetSystem
from fleet_perf.report import Section, document, table_of
from fleet_perf.warm import Say
from tritonfleet.errors import Unstable

FLAT_BYTES = 2 * MB
"""Less growth than this over the second half of the cycles is none."""
SAMPLES = 100
SETTLE_S = 0.5
_PROGRAM = "tritonserver"


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory of tritonserver and its models around one cycle, in bytes.

    RSS, for PSS falls and rises with every other process on the machine that maps the same
    libraries.
    """

    cycle: int
    before: int
    loaded: int
    unloaded: int
    """As soon as the unload was confirmed."""
    settled: int
    """A moment later."""
    pss: int
    """The same moment, in PSS."""

    @property
    def returned_at_once(self) -> float:
        """Of what the model had taken."""
        return (self.loaded - self.unloaded) / max(1, self.loaded - self.before)


@dataclass(slots=True)
class CyclesResults:
    """The series, and whether it rises."""

    backend: str
    cycles: int
    models: int
    model_bytes: int
    environment: dict[str, Any]
    elapsed_s: float = 0.0
    samples: list[Sample] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """Bytes that the second half of the cycles has added, each."""
        late = self.samples[len(self.samples) // 2 :]
        if len(late) < 2:
            return 0.0
        points = [sample.cycle for sample in late], [sample.settled for sample in late]
        return float(numpy.polyfit(*points, deg=1)[0])

    @property
    def flat(self) -> bool:
        """Whether the second half has added nothing worth mentioning."""
        return self.slope * self.cycles / 2 < FLAT_BYTES

    @property
    def returned_at_once(self) -> float:
        """The median share of a model's memory that is free when its unload is confirmed."""
        return statistics.median(sample.returned_at_once for sample in self.samples)

    def as_json(self) -> dict[str, Any]:
        """Plain data, figures unrounded."""
        found = {"slope": self.slope, "flat": self.flat, "returned_at_once": self.returned_at_once}
        return {"name": "cycles", **asdict(self), **found}


async def run_cycles(
    system: FleetSystem, job: Job, cycles: int, cache: Path, say: Say
) -> CyclesResults:
    """Loads and unloads the job's models in turn."""
    results = CyclesResults(
        system.backend, cycles, job.models, job.network.weight_bytes, environment.describe()
    )
    with scratch(cache) as folder:
        say("writing the models …")
        await asyncio.to_thread(write_repository, folder / "models", job)
        say(f"{system.name}: starting …")
        budget = Budget(PLENTY, footprint=1)
        async with system.running(job, folder / "models", folder, budget) as running:
            assert running.control is not None, "a fleet of ours"
            async with (
                Client(running, job) as client,
                RunningFleet(running.control, running.url) as fleet,
            ):
                await _go_round(results, job, client, fleet, say)
    return results


async def _go_round(
    results: CyclesResults, job: Job, client: Client, fleet: RunningFleet, say: Say
) -> None:
    tree = client.running.tree.named(_PROGRAM)
    if tree is None:
        raise Unstable(client.running.name, f"it has no process named {_PROGRAM}")
    loop, every = asyncio.get_running_loop(), max(1, results.cycles // SAMPLES)
    begun = loop.time()
    for cycle in range(results.cycles):
        name = job.names[cycle % job.models]
        if cycle % every:
            await _cycle(name, client, fleet)
        else:
            results.samples.append(await _sampled(cycle, name, client, fleet, tree))
            say(f"cycle {cycle} of {results.cycles}: {results.samples[-1].settled / MB:.1f} MB")
    results.elapsed_s = loop.time() - begun


async def _cycle(name: str, client: Client, fleet: RunningFleet) -> None:
    await fleet.act("load", name)
    await client.must_answer([name])
    await fleet.act("unload", name)


async def _sampled(
    cycle: int, name: str, client: Client, fleet: RunningFleet, tree: ProcessTree
) -> Sample:
    before = tree.rss_bytes()
    await fleet.act("load", name)
    await client.must_answer([name])
    loaded = tree.rss_bytes()
    await fleet.act("unload", name)
    unloaded = tree.rss_bytes()
    await asyncio.sleep(SETTLE_S)
    return Sample(cycle, before, loaded, unloaded, tree.rss_bytes(), tree.pss_bytes())


def sections(results: CyclesResults) -> list[Section]:
    """The series at ten points, and what it says."""
    table = table_of("cycle", "before MB", "loaded MB", "unloaded MB", "settled MB", "PSS MB")
    for sample in results.samples[:: max(1, len(results.samples) // 10)]:
        sizes = (sample.before, sample.loaded, sample.unloaded, sample.settled, sample.pss)
        table.add_row(str(sample.cycle), *(f"{size / MB:.1f}" for size in sizes))
    note = (
        f"{'Flat' if results.flat else 'NOT FLAT'}: {results.slope:+.0f} bytes a cycle over the "
        f"second half. {results.returned_at_once:.0%} of a model's memory is free when its unload "
        f"is confirmed. {1e3 * results.elapsed_s / results.cycles:.0f} ms a cycle with all samples."
    )
    title = (
        f"RSS of {_PROGRAM} over {results.cycles} load/unload cycles, {results.backend} backend, "
        f"models of {results.model_bytes / MB:.0f} MB"
    )
    return [Section(title, table, note)]


def markdown(results: CyclesResults) -> str:
    """The table as Markdown, with the environment on top."""
    return document("Load/unload cycles", results.environment, sections(results), [])
