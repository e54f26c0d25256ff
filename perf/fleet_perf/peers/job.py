"""The job that everybody is given: how many models, how large, how much room, which requests.

Pure: the same job and seed give the same requests everywhere.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy

IDS_PER_ROW = 16


@dataclass(frozen=True, slots=True)
class Network:
    """An embedding table, the mean of a row's embeddings, and layers on top of it.

    As in models that classify short texts or rank items, a request touches a few rows of the table
    and all of the layers: what is measured is the serving and not one long matrix product.
    """

    vocabulary: int = 19_500
    width: int = 256
    layers: tuple[int, ...] = (1024, 768, 256, 10)

    @property
    def weight_bytes(self) -> int:
        """Of all its parameters."""
        widths = (self.width, *self.layers)
        dense = sum(one * other + other for one, other in itertools.pairwise(widths))
        return 4 * (self.vocabulary * self.width + dense)


NETWORKS = {
    "embedding": Network(),
    "dense": Network(256, 64, (1024, 2048, 1536, 512, 512, 64, 10)),
}
"""Both have 25 MB of weights; of the dense one every request touches them all."""


@dataclass(frozen=True, slots=True)
class Job:
    """Models that do not all fit, and a trace of requests for them."""

    models: int = 24
    room: int = 8
    clients: int = 4
    network: Network = Network()
    zipf_exponent: float = 1.0
    seed: int = 20
    tiny_models: int = 100

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models, in the order in which they are asked when nothing else is said."""
        return tuple(f"model-{index:02}" for index in range(self.models))

    @property
    def tiny_names(self) -> tuple[str, ...]:
        """Of the models that only show what a model costs beside its weights."""
        return tuple(f"tiny-{index:03}" for index in range(self.tiny_models))


@dataclass(frozen=True, slots=True)
class Effort:
    """How often things are measured. Every burst is short, and all systems take turns."""

    cold_bursts: int = 12
    cold_per_burst: int = 8
    trace_requests: int = 480
    trace_slice: int = 40
    warm_bursts: int = 8
    warm_per_burst: int = 500
    idle_s: float = 10.0

    @staticmethod
    def quick() -> Effort:
        """Figures to look at, not to keep."""
        return Effort(3, 4, 120, 40, 2, 200, 3.0)


def zipf_trace(job: Job, requests: int) -> tuple[str, ...]:
    """Which model each request asks for: the n-th most popular one with weight 1 / n^exponent.

    Which model is how popular is drawn, too, so that popularity does not follow the names.
    """
    random = numpy.random.default_rng(job.seed)
    by_popularity = random.permutation(job.names)
    weights = numpy.arange(1, job.models + 1) ** -job.zipf_exponent
    drawn = random.choice(by_popularity, size=requests, p=weights / weights.sum())
    return tuple(str(name) for name in drawn)


def slices(trace: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """A trace in parts that follow each other."""
    return [tuple(trace[at : at + size]) for at in range(0, len(trace), size)]


def cold_order(job: Job) -> Iterator[str]:
    """Models without end, none of which can be in memory when its turn comes.

    Around the ring every model but itself has been asked for since its last turn. With room for
    less than that, any cache that keeps what was asked for last has dropped it.
    """
    return itertools.cycle(job.names)


def lru_hits(trace: Sequence[str], room: int, resident: Sequence[str] = ()) -> int:
    """How many requests of a trace find their model in memory, were they served one by one."""
    memory: OrderedDict[str, None] = OrderedDict.fromkeys(resident)
    hits = 0
    for name in trace:
        hits += name in memory
        memory.pop(name, None)
        memory[name] = None
        if len(memory) > room:
            memory.popitem(last=False)
    return hits
