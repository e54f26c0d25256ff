"""What was found of each system, and what it says about ours. Pure: values in, values out."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fleet_perf.compare import Spread, spread

MB = 1e6
TINY_BOUND_BYTES = 300 * MB


@dataclass(frozen=True, slots=True)
class WarmBurst:
    """Requests for models in memory, and what they cost."""

    requests: int
    cpu_s: float
    elapsed_s: float
    latency_s: tuple[float, ...]
    cpu_s_by_name: Mapping[str, float] = field(default_factory=dict)
    """By the name of the program."""


@dataclass(frozen=True, slots=True)
class Warm:
    """All bursts of one number of clients."""

    clients: int
    bursts: tuple[WarmBurst, ...]

    @property
    def cpu_ms_per_request(self) -> float:
        """The median of the bursts, of the whole process tree."""
        return statistics.median(1e3 * burst.cpu_s / burst.requests for burst in self.bursts)

    @property
    def cpu_ms_by_name(self) -> dict[str, float]:
        """Where it is spent: the mean of all bursts, for each program."""
        requests = sum(burst.requests for burst in self.bursts)
        names = sorted({name for burst in self.bursts for name in burst.cpu_s_by_name})
        return {
            name: 1e3 * sum(one.cpu_s_by_name.get(name, 0.0) for one in self.bursts) / requests
            for name in names
        }

    @property
    def latency(self) -> Spread:
        """Of all bursts."""
        return _spread(seconds for burst in self.bursts for seconds in burst.latency_s)


@dataclass(frozen=True, slots=True)
class Cold:
    """First answers of models that had to displace others, one client."""

    latency_s: tuple[float, ...]
    cpu_s: float

    @property
    def latency(self) -> Spread:
        """All of them."""
        return _spread(self.latency_s)

    @property
    def cpu_ms_per_load(self) -> float:
        """Of the whole process tree, the request included."""
        return 1e3 * self.cpu_s / len(self.latency_s)


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole trace, by several clients."""

    slices_s: tuple[float, ...]
    requests: int
    loads: int
    """A request that waits for a load that another has begun causes none."""
    errors: tuple[str, ...]

    @property
    def elapsed_s(self) -> float:
        """Of all slices."""
        return sum(self.slices_s)

    @property
    def hit_ratio(self) -> float:
        """Requests that caused no load, of all."""
        return 1 - self.loads / self.requests


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a system alone on the machine, in PSS over its process tree."""

    resident: int
    """Models that had answered."""
    bytes: int
    empty_bytes: int
    """After one model had answered."""
    footprint: int | None = None
    """What our controller charges for each model; others do not say."""


@dataclass(slots=True)
class SystemFigures:
    """Everything that was found of one system."""

    name: str
    ours: bool
    settings: str
    """What was chosen for it."""
    packages: tuple[str, ...] = ()
    memory: Memory | None = None
    cold: Cold | None = None
    trace: Trace | None = None
    warm: dict[int, Warm] = field(default_factory=dict)
    idle_cores: float | None = None
    """Kept busy while nobody asked for anything."""
    end_bytes: int | None = None
    """PSS at the end of everything, with as many models in memory as there is room for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bound, and whether it holds; no ratio where a side is missing."""

    what: str
    bound: float
    ratio: float | None
    against: str

    @property
    def holds(self) -> bool:
        """Whether it was measured and is not exceeded."""
        return self.ratio is not None and self.ratio <= self.bound

    @property
    def missed(self) -> bool:
        """Whether it was measured and is exceeded."""
        return self.ratio is not None and self.ratio > self.bound


Figure = Callable[[SystemFigures], "float | None"]


def best(systems: Iterable[SystemFigures], figure: Figure) -> tuple[str, float] | None:
    """The system with the lowest figure; None where nobody has one."""
    found = [(value, one.name) for one in systems if (value := figure(one)) is not None]
    return (min(found)[1], min(found)[0]) if found else None


def over(ours: float | None, theirs: float | None) -> float | None:
    """A ratio; None where a side is missing."""
    return None if ours is None or not theirs else ours / theirs


def cold_p50(system: SystemFigures) -> float | None:
    """Seconds."""
    return system.cold.latency.p50 if system.cold else None


def cold_p95(system: SystemFigures) -> float | None:
    """Seconds."""
    return system.cold.latency.p95 if system.cold else None


def trace_s(system: SystemFigures) -> float | None:
    """Seconds; None when a request failed, for who skips work is not quick."""
    return system.trace.elapsed_s if system.trace and not system.trace.errors else None


def resident_bytes(system: SystemFigures) -> float | None:
    """Of the models that there is room for."""
    return system.memory.bytes if system.memory else None


def warm_cpu(clients: int) -> Figure:
    """CPU milliseconds of a request when so many clients ask."""
    return lambda system: found.cpu_ms_per_request if (found := system.warm.get(clients)) else None


def verdicts(
    systems: Mapping[str, SystemFigures],
    native: str,
    python: str,
    clients: int,
    tiny_bytes: float | None,
) -> list[Verdict]:
    """What is promised of the native backend, line by line."""
    ours = systems.get(native)
    peers = [system for system in systems.values() if not system.ours]
    beside = [system for name, system in systems.items() if name == python]

    def line(what: str, bound: float, figure: Figure, others: Sequence[SystemFigures]) -> Verdict:
        other = best(others, figure)
        found = over(figure(ours) if ours else None, other[1] if other else None)
        return Verdict(what, bound, found, other[0] if other else "nobody")

    lines = [
        line("cold start p50", 1.0, cold_p50, peers),
        line("cold start p95", 1.0, cold_p95, peers),
        line("whole trace", 0.9, trace_s, peers),
    ]
    for count in (1, clients):
        what = f"warm CPU, {count} client{'s' if count > 1 else ''}"
        lines.append(line(what, 0.8, warm_cpu(count), beside))
        lines.append(line(what, 0.5, warm_cpu(count), peers))
    lines.append(line("memory of the resident models", 0.6, resident_bytes, peers))
    lines.append(
        Verdict("memory of the tiny models", 1.0, over(tiny_bytes, TINY_BOUND_BYTES), "300 MB")
    )
    return lines


def _spread(values: Iterable[float]) -> Spread:
    found = spread(list(values))
    assert found is not None, "nothing was measured"
    return found
