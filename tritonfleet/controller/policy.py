"""On which server a model goes, and who leaves for it: pure questions about values.

A policy never waits, never reads a clock and never changes what it is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model somebody waits for, with the members that must be in memory beside it."""

    model: str
    parts: tuple[tuple[str, int], ...]
    """Footprint in bytes of the model itself and of each member, by name."""
    priority: int = 5


@dataclass(frozen=True, slots=True)
class Holding:
    """A model that a server holds or has promised to hold."""

    model: str
    footprint: int
    last_used: float = 0.0
    priority: int = 5
    evictable: bool = True
    dependents: tuple[str, ...] = ()
    """Ensembles on the same server that need it, and therefore leave with it."""


@dataclass(frozen=True, slots=True)
class ServerView:
    """One server as a policy sees it: its budget and all that is promised there."""

    name: str
    capacity: int
    holdings: tuple[Holding, ...] = ()
    now: float = 0.0
    """On the clock of ``last_used``, in seconds."""

    @property
    def free(self) -> int:
        """Bytes not promised to anybody; negative when footprints turned out larger."""
        return self.capacity - sum(holding.footprint for holding in self.holdings)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a model goes, and whom it displaces, in the order of eviction."""

    server: str
    evict: tuple[str, ...] = ()


class Policy(Protocol):
    """What the ledger asks of any policy."""

    def plan(self, wanted: Wanted, servers: Sequence[ServerView]) -> Plan | None:
        """Where the model could go now; None when no set of evictions would make room."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """What leaves together: a model, and the ensembles that are useless without it."""

    models: frozenset[str]
    priority: int
    idle_s: float

    @property
    def worth(self) -> tuple[float, int, list[str]]:
        """Ascending: the longest idle for its priority first."""
        return (-self.idle_s * ageing(self.priority), -self.priority, sorted(self.models))


def ageing(priority: int) -> float:
    """How much faster than a model of priority 1 one of this priority grows old; 10 for 10.

    A decade between the ends, because a strict order lets idle important models squat while the
    others thrash: on six request traces it cost 1.1 to 5.8 times the load time of plain LRU, this
    weighting 0.93 to 1.18 times, at 0.25 to 0.72 times the cold starts of important models
    (docs/adr/0006-priority-as-a-weight.md).
    """
    return float(10 ** ((priority - 1) / 9))


class PriorityLRU:
    """Evicts the least recently used model, where an unimportant one grows old faster.

    Priority 1 is the most important, as everywhere in Triton; among equals it is plain LRU. No
    victim is superfluous: one that turns out not to be needed, because a later one freed enough by
    itself, is spared again.
    """

    def plan(self, wanted: Wanted, servers: Sequence[ServerView]) -> Plan | None:
        """The server that needs no eviction, else the one whose victims are worth least."""
        choices = [
            (self._loss(server, victims), Plan(server.name, victims))
            for server in servers
            if (victims := self._victims(wanted, server)) is not None
        ]
        return min(choices, key=lambda choice: choice[0])[1] if choices else None

    def _victims(self, wanted: Wanted, server: ServerView) -> tuple[str, ...] | None:
        held = {holding.model: holding for holding in server.holdings}
        need = sum(size for part, size in wanted.parts if part not in held) - server.free
        if need <= 0:
            return ()
        needed_parts = {part for part, _ in wanted.parts}
        units = [unit for unit in _units(server, held) if not unit.models & needed_parts]
        return _select(sorted(units, key=lambda unit: unit.worth), held, need)

    @staticmethod
    def _loss(server: ServerView, victims: tuple[str, ...]) -> tuple[object, ...]:
        if not victims:
            return (0, -server.free, server.name)
        idle_s = [
            (server.now - holding.last_used) * ageing(holding.priority)
            for holding in server.holdings
            if holding.model in victims
        ]
        return (1, -min(idle_s), len(victims), server.name)


def _units(server: ServerView, held: dict[str, Holding]) -> Iterable[_Unit]:
    """Every set of models that may leave together and frees something."""
    for holding in server.holdings:
        leaving = [holding, *(held[name] for name in holding.dependents if name in held)]
        if holding.footprint > 0 and all(one.evictable for one in leaving):
            yield _Unit(
                frozenset(one.model for one in leaving),
                min(one.priority for one in leaving),
                max(0.0, server.now - max(one.last_used for one in leaving)),
            )


def _select(units: list[_Unit], held: dict[str, Holding], need: int) -> tuple[str, ...] | None:
    chosen: list[_Unit] = []
    for unit in units:
        if _freed(chosen, held) >= need:
            break
        chosen.append(unit)
    if _freed(chosen, held) < need:
        return None
    for unit in reversed(chosen[:]):
        rest = [other for other in chosen if other is not unit]
        if _freed(rest, held) >= need:
            chosen = rest
    ordered = [
        name for unit in chosen for name in sorted(unit.models, key=lambda n: held[n].footprint)
    ]
    return tuple(dict.fromkeys(ordered))


def _freed(units: Iterable[_Unit], held: dict[str, Holding]) -> int:
    models = frozenset[str]().union(*(unit.models for unit in units))
    return sum(held[model].footprint for model in models)
