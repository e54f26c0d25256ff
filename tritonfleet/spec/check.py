"""What types alone cannot tell about a fleet: references, cycles, sums and contradictions.

Each check yields ``(location, message, suggestion)``; ``load`` turns locations into lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from tritonfleet.errors import did_you_mean
from tritonfleet.spec.fleet import (
    EnsembleSource,
    FleetSpec,
    HuggingFaceSource,
    ServerSpec,
    ServingSpec,
    VersionPolicy,
)
from tritonfleet.units import format_bytes

Location: TypeAlias = tuple[str | int, ...]
Finding: TypeAlias = tuple[Location, str, str | None]


def suggest(word: str, known: Iterable[str]) -> str | None:
    """'did you mean' for a misspelt word, the known words for a foreign one."""
    known = sorted(known)
    guess = did_you_mean(word, known)
    if guess:
        return f"did you mean '{guess}'?"
    return f"known: {', '.join(known)}" if known else None


def check_fleet(fleet: FleetSpec, model_names: frozenset[str]) -> Iterator[Finding]:
    """All findings; ``model_names`` also holds the models that did not validate."""
    yield from _check_servers(fleet.servers)
    yield from _check_profiles(fleet)
    yield from _check_sources(fleet)
    yield from _check_members(fleet, model_names)
    yield from _check_sizes(fleet)
    known_profiles = fleet.all_profiles()
    for name, model in fleet.models.items():
        if (model.profile or fleet.defaults.profile or "batch") in known_profiles:
            yield from _check_serving(("models", name, "serving"), fleet.serving(name))


def _check_servers(servers: tuple[ServerSpec, ...]) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, server in enumerate(servers):
        at: Location = ("servers", index)
        if server.name in seen:
            yield (*at, "name"), f"server '{server.name}' is declared twice", "rename one"
        seen.add(server.name)
        if server.budget <= 0:
            yield (*at, "margin"), "the margin leaves no memory for models", "lower it"
        elif server.head_room_bytes >= server.budget:
            yield (*at, "head_room"), "the head-room leaves no memory for models", "lower it"
        urls = bool(server.http_url) + bool(server.grpc_url)
        if server.launcher == "external" and urls < 2:
            yield (*at, "launcher"), "an external server needs http_url and grpc_url", None
        if server.launcher != "external" and urls:
            yield (*at, "launcher"), "addresses are for launcher 'external' only", None


def _check_profiles(fleet: FleetSpec) -> Iterator[Finding]:
    known = fleet.all_profiles()
    used: list[tuple[Location, str | None]] = [(("defaults", "profile"), fleet.defaults.profile)]
    used += [(("models", name, "profile"), model.profile) for name, model in fleet.models.items()]
    for at, profile in used:
        if profile is not None and profile not in known:
            yield at, f"there is no profile '{profile}'", suggest(profile, known)


def _check_sources(fleet: FleetSpec) -> Iterator[Finding]:
    for name, model in fleet.models.items():
        source = model.source
        if isinstance(source, HuggingFaceSource) and bool(source.model) == bool(
            source.random_weights
        ):
            at = ("models", name, "source")
            yield at, "give exactly one of 'model' and 'random_weights'", None


def _check_members(fleet: FleetSpec, model_names: frozenset[str]) -> Iterator[Finding]:
    members = {name: model.members for name, model in fleet.models.items()}
    for name, model in fleet.models.items():
        if not isinstance(model.source, EnsembleSource):
            continue
        at: Location = ("models", name, "source", "steps")
        for index, step in enumerate(model.source.steps):
            if step.model not in model_names:
                where = (*at, index, "model")
                yield where, f"there is no model '{step.model}'", suggest(step.model, model_names)
        cycle = _cycle(name, members)
        if cycle:
            yield at, f"the ensemble contains itself: {' -> '.join(cycle)}", None


def _cycle(start: str, members: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """A path of members from a model back to itself, if there is one."""
    stack: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    while stack:
        path = stack.pop()
        for member in members.get(path[-1], ()):
            if member == start:
                return (*path, member)
            if member not in seen:
                seen.add(member)
                stack.append((*path, member))
    return None


def _check_sizes(fleet: FleetSpec) -> Iterator[Finding]:
    largest = max(server.budget for server in fleet.servers)
    pinned: dict[str, int] = {}
    for name in fleet.models:
        residency = fleet.residency(name)
        size = residency.footprint or 0
        if size > largest:
            message = (
                f"{format_bytes(size)} is more than the largest server's {format_bytes(largest)}"
            )
            yield ("models", name, "residency", "footprint"), message, "raise the server's capacity"
        if residency.pinned:
            pinned[name] = size
    total = sum(server.budget for server in fleet.servers)
    if sum(pinned.values()) > total:
        message = (
            f"the pinned models need {format_bytes(sum(pinned.values()))} of {format_bytes(total)}"
        )
        yield ("models",), message, f"unpin one of {', '.join(pinned)}"


def _check_serving(at: Location, serving: ServingSpec) -> Iterator[Finding]:
    largest = serving.max_batch_size
    if serving.version_policy is not None and _alternatives(serving.version_policy) != 1:
        yield (*at, "version_policy"), "give exactly one of latest, specific and all", None
    for index, warmup in enumerate(serving.warmup):
        if largest is not None and warmup.batch_size > max(largest, 1):
            where = (*at, "warmup", index, "batch_size")
            yield where, f"{warmup.batch_size} is above max_batch_size {largest}", None
    batching = serving.dynamic_batching
    if batching is None:
        return
    at = (*at, "dynamic_batching")
    for size in batching.preferred_batch_size:
        if largest is not None and size > largest:
            where = (*at, "preferred_batch_size")
            yield where, f"{size} is above max_batch_size {largest}", None
    levels = batching.priority_levels
    if batching.default_priority_level > levels or (levels and not batching.default_priority_level):
        message = (
            f"default_priority_level must lie in 1..{levels}"
            if levels
            else ("default_priority_level needs priority_levels")
        )
        yield (*at, "default_priority_level"), message, None
    yield from _check_levels((*at, "priority_queue_policy"), batching.priority_queue_policy, levels)


def _check_levels(at: Location, policies: Mapping[int, object], levels: int) -> Iterator[Finding]:
    for level in policies:
        if not 1 <= level <= levels:
            yield (*at, level), f"level {level} is not among priority_levels 1..{levels}", None


def _alternatives(policy: VersionPolicy) -> int:
    return bool(policy.latest) + bool(policy.specific) + policy.all
