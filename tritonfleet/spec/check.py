"""What types alone cannot tell about a fleet: references, cycles, sums and contradictions.

Each check yields ``(location, message, suggestion)``; ``load`` turns locations into lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from tritonfleet.errors import did_you_mean
from tritonfleet.spec.check_serving import (
    Finding,
    Location,
    check_ensemble,
    check_resources,
    check_serving,
)
from tritonfleet.spec.check_traffic import check_traffic
from tritonfleet.spec.fleet import FleetSpec, ServerSpec
from tritonfleet.spec.serving import ServingSpec
from tritonfleet.spec.sources import EnsembleSource, HuggingFaceSource
from tritonfleet.units import format_bytes


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
    yield from check_traffic(fleet, model_names)
    known_profiles = fleet.all_profiles()
    served: dict[Location, ServingSpec] = {}
    for name, model in fleet.models.items():
        if isinstance(model.source, EnsembleSource):
            yield from check_ensemble(("models", name, "serving"), model.serving)
        if (model.profile or fleet.defaults.profile or "batch") in known_profiles:
            served[("models", name, "serving")] = fleet.serving(name)
    for at, serving in served.items():
        yield from check_serving(at, serving)
    yield from check_resources(served.items())


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
